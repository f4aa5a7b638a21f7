import { expect, test } from 'vitest';
import { Doorbells } from '../devices/contracts.js';
import { InlineEventThread } from '../sys/inline-event-thread.js';
import { Scope } from '../sys/scope.js';
import { Assignment } from '../vfio/assign/index.js';
import { registerAssignment } from './assign/built-ins.js';
import { createAssignment } from './assign/create.js';
import { container as root } from './injection.js';
import type { Plugin } from './plugin.js';
import { configurePorts } from './plugin-ports.js';
import { pluginProblem } from './plugin-shape.js';

const configuredBy = (configure: Plugin['configure']) => () =>
  configurePorts(
    root.createChildContainer(),
    [{ name: 'odd', ...(configure && { configure }) }],
    new Scope(),
  );

test('a plug-in whose configure throws is named', () => {
  const fail = (reason: unknown) => () => {
    throw reason;
  };
  expect(configuredBy(fail(new Error('no such card')))).toThrowError('plug-in odd: no such card');
  expect(configuredBy(fail('text'))).toThrowError('plug-in odd: it throws text');
  expect(configuredBy(() => {})).not.toThrow();
});

test('an asynchronous configure is refused: what it registers would come too late, and its failure nobody hears', () => {
  const reason = /plug-in odd: its configure is asynchronous/;
  expect(configuredBy(async () => {})).toThrowError(reason);
  expect(configuredBy(() => Promise.reject(new Error('later')))).toThrowError(reason);
});

test.each(['nonsense', undefined, 5])(
  'a provider of a plug-in that is %j is refused when it is loaded',
  (provider) => {
    expect(pluginProblem({ name: 'odd', providers: [provider] })).toMatch(
      /providers\[0\] .*(not|no) .*object/,
    );
  },
);

test('a port that is no object is named when it is first needed, by both ways to wire an assignment', () => {
  const doorbells = 'nonsense' as unknown as Doorbells;
  const reason = 'the doorbells is "nonsense", not an object';
  using wired = createAssignment({ doorbells });
  expect(() => wired.ports.doorbells).toThrowError(reason);
  const container = root.createChildContainer();
  container.register(Doorbells, { useValue: doorbells });
  using scope = new Scope();
  const eventThread = scope.own(new InlineEventThread(new Map()));
  const ports = ['mmio', 'pio', 'memory', 'mapper', 'association', 'interrupts', 'signals'] as const;
  using _owned = registerAssignment(container, {
    ...Object.fromEntries(ports.map((name) => [name, {}])),
    eventThread,
    windows: [],
    providers: [],
  });
  expect(() => container.resolve(Assignment)).toThrowError(reason);
});
