import { chai } from 'vitest';

const done = Symbol.for('tsvisor.thrown-values');

/**
 * Makes `toThrow` and `toThrowError` fail if the function throws undefined. Chai takes that for an error with any
 * message, so `throw refused(…)` whose function has lost its `return` would pass `toThrow(/EINVAL/)`.
 */
export function checkThrownValues(): void {
  chai.use((library, utils) => {
    const prototype = library.Assertion.prototype as unknown as Record<symbol, boolean>;
    if (prototype[done]) return; // several test files in one process
    prototype[done] = true;
    for (const name of ['toThrow', 'toThrowError']) {
      utils.overwriteMethod(
        library.Assertion.prototype,
        name,
        (original: (...args: unknown[]) => unknown) => {
          return function (this: object, ...args: unknown[]): unknown {
            const subject: unknown = utils.flag(this, 'object');
            if (typeof subject === 'function' && utils.flag(this, 'promise') === undefined)
              utils.flag(this, 'object', () => call(subject as () => unknown));
            return original.apply(this, args);
          };
        },
      );
    }
  });
}

function call(subject: () => unknown): unknown {
  try {
    return subject();
  } catch (thrown) {
    throw thrown === undefined ? new TypeError('undefined is thrown, which is no error') : thrown;
  }
}
