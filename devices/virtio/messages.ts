import type { DmaTableBuffer } from '../../vfio/dma-table.js';
import type { InterruptTargets } from '../mdev/device-interrupts.js';

/** What the registers of any type tell its queues, by {@link EventTask.call}: it takes effect before that returns. */
export type FunctionCommand =
  | { readonly kind: 'attach'; readonly table: DmaTableBuffer }
  | { readonly kind: 'detach' }
  /** Stops the queues: no I/O is left, guest memory is no longer accessed, and no interrupt is raised. */
  | { readonly kind: 'stop' }
  | { readonly kind: 'interrupts'; readonly targets: InterruptTargets }
  | { readonly kind: 'maskIntx'; readonly isMasked: boolean }
  /** The command register in the shared state has changed: bus mastering, INTx disable. */
  | { readonly kind: 'command' };
