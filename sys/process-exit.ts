const hooks = new Set<() => void>();

/**
 * Runs `hook` when the process exits, until disposed. A hook must make threads in KVM_RUN or epoll_wait return: Node
 * waits for them without limit.
 */
export function onProcessExit(hook: () => void): Disposable {
  if (hooks.size === 0) process.on('exit', runHooks);
  hooks.add(hook);
  return {
    [Symbol.dispose]() {
      hooks.delete(hook);
      if (hooks.size === 0) process.off('exit', runHooks);
    },
  };
}

function runHooks(): void {
  for (const hook of hooks) hook();
}
