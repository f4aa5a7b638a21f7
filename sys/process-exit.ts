const hooks = new Set<() => void>();

/**
 * Runs `hook` when the process exits, until disposed. Threads that sit in KVM_RUN or epoll_wait have to be asked to
 * leave first: Node waits for them, for ever.
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
