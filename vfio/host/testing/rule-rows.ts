/** For tests of rules: each on a host that is right in all respects but one. */
import { expect, test } from 'vitest';
import type { CheckFinding, CheckRuleName, CheckVerdict } from '../check/finding.js';
import { CheckWorld, limits, NIC, status } from './check-world.js';

export interface RuleRow {
  /** What is the case. */
  readonly what: string;
  readonly spoil: (world: CheckWorld) => void;
  readonly text: RegExp;
  /** Some of the evidence. */
  readonly evidence?: readonly (readonly [source: string, said: RegExp])[];
  readonly commands?: readonly string[];
  readonly advice?: RegExp;
}

/** Rows by rule and verdict. */
export type RuleRows = Partial<Record<CheckRuleName, Partial<Record<CheckVerdict, readonly RuleRow[]>>>>;

/** Declares a test for each row, and one that each of `rules` has rows. */
export function testRules(rules: readonly { readonly name: CheckRuleName }[], rows: RuleRows): void {
  test('each rule is tried, and no other', () => {
    expect(Object.keys(rows)).toEqual(rules.map(({ name }) => name));
  });

  const all = Object.entries(rows).flatMap(([rule, verdicts]) =>
    Object.entries(verdicts).flatMap(([verdict, each]) => each.map((row) => ({ rule, verdict, ...row }))),
  );
  test.each(all)('$rule: $verdict if $what', ({ rule, verdict, spoil, ...row }) => {
    using world = new CheckWorld();
    spoil(world);
    const found = world.find(rule as CheckRuleName) as CheckFinding;
    expect(found).toMatchObject({ verdict });
    expect(found.text).toMatch(row.text);
    for (const [source, said] of row.evidence ?? [])
      expect(found.evidence).toContainEqual({ source, said: expect.stringMatching(said) });
    if (row.commands !== undefined) expect(found.commands).toEqual(row.commands);
    if (row.advice !== undefined) expect(found.advice).toMatch(row.advice);
    expect(found.evidence.length).toBeGreaterThan(0);
    if (verdict !== 'ok') expect(`${found.why}${found.advice}`).not.toBe('undefinedundefined');
  });
}

export const AUDIO = '0000:01:00.1';
export const VF = '0000:02:10.0';
export const PF = '0000:02:00.0';
export const UUID = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';
/** The NIC's folder. */
export const FOLDER = `/sys/devices/pci0000:00/${NIC}`;

export const nothing = (): void => {};

/** The commands that bind a function to vfio-pci. */
export const bindAll = (address: string, driver: string | undefined): string[] => [
  'modprobe vfio-pci',
  `echo vfio-pci > /sys/bus/pci/devices/${address}/driver_override`,
  ...(driver === undefined ? [] : [`echo ${address} > /sys/bus/pci/devices/${address}/driver/unbind`]),
  `echo ${address} > /sys/bus/pci/drivers_probe`,
];

/** Takes the NIC from VFIO: another driver has it, or none. */
export function unbound(world: CheckWorld, driver?: string): void {
  world.host.remove(world.nic('driver'));
  world.host.remove(world.nic('vfio-dev'));
  world.host.remove('sys/class/vfio/26');
  world.nodes.remove(world.dev('vfio/26'));
  if (driver !== undefined)
    world.host.link(world.nic('driver'), `${world.host.roots.sys}/bus/pci/drivers/${driver}`);
}

/** The process is an ordinary user's, with this limit on locked memory, in bytes. */
export function asUser(
  world: CheckWorld,
  soft: number,
  hard = soft,
  kib: Parameters<typeof status>[1] = {},
): void {
  world.host.file('proc/self/limits', limits(soft, hard));
  world.host.file('proc/self/status', status('user', kib));
}

/** The device is a VF. */
export function vf(
  world: CheckWorld,
  driverOfPf: string,
  options: Record<string, string> = {},
  how: 'group' | 'iommufd' = 'group',
): void {
  world.addFunction(PF, 30, driverOfPf);
  world.addFunction(VF, 31);
  world.host.link(`sys/devices/pci0000:00/${VF}/physfn`, `../${PF}`);
  world.devices({ address: VF, options, interface: how });
}

export const byIommufd = (world: CheckWorld): void => world.devices({ address: NIC, interface: 'iommufd' });
