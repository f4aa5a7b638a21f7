/** What a network card adds to the state of a virtio function. */
import type { StateReader, StateWriter } from '../mdev/state-fields.js';
import type { SavedConfig } from '../virtio/common-config.js';
import { MAC_BYTES } from './net-config.js';
import { usablePairs } from './queue-layout.js';

/** What a driver knows of a card, or has set, besides its registers. */
export interface SavedNet {
  /** Queue pairs of the card. */
  readonly pairs: number;
  readonly mtu: number;
  readonly mac: Uint8Array;
  readonly isLinkUp: boolean;
  /** Pairs that the driver uses. */
  readonly activePairs: number;
}

export function saveNet(out: StateWriter, { pairs, mtu, mac, isLinkUp, activePairs }: SavedNet): void {
  out.u16(pairs).u16(mtu).bytes(mac);
  out.u8(isLinkUp ? 1 : 0).u16(activePairs);
}

/** Reads what {@link saveNet} has written, for a card with as many pairs and the same MTU. */
export function readNet(
  reader: StateReader,
  own: Pick<SavedNet, 'pairs' | 'mtu'>,
  { features, isDriverOk }: SavedConfig,
): SavedNet {
  const [pairs, mtu] = [reader.u16(), reader.u16()];
  reader.same('number of queue pairs', pairs, own.pairs);
  reader.same('MTU', mtu, own.mtu);
  const mac = Uint8Array.from(reader.bytes(MAC_BYTES));
  const isLinkUp = reader.flag('the link');
  const activePairs = reader.u16();
  const most = isDriverOk ? usablePairs(features, pairs) : 1;
  if (activePairs < 1 || activePairs > most) reader.fail(`${activePairs} queue pairs in use, of ${most}`);
  return { pairs, mtu, mac, isLinkUp, activePairs };
}
