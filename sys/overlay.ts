/** `target` with some members replaced or added. Its own functions keep their `this`, as private fields need. */
export function overlay<Target extends object, Own extends object>(target: Target, own: Own): Target & Own {
  return new Proxy(target, {
    get(_target, name) {
      if (Object.hasOwn(own, name)) return Reflect.get(own, name);
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  }) as Target & Own;
}
