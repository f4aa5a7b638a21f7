/** What a mistyped address of a device was meant to be. */
import { didYouMean, nearest } from '../sys/suggestion.js';
import { nearestPciAddress } from '../vfio/addresses.js';

/** Shorter beginnings say too little. */
const LEAST_BEGINNING = 3;

/**
 * `; did you mean virtio-net?`, or nothing.
 * @param names addresses, and the beginnings of others up to a colon: `vfio-user:`
 */
export function deviceSuggestion(address: string, names: readonly string[]): string {
  const pci = nearestPciAddress(address);
  if (pci !== undefined) return meant([pci]);
  const [word, rest] = split(address);
  const forms = names.filter((name) => name.endsWith(':') === (rest !== ''));
  if (rest !== '') {
    const form = nearest(`${word}:`, forms);
    return form === undefined ? '' : meant([form + rest.slice(1)]);
  }
  const near = didYouMean(word, forms);
  if (near !== '' || word.length < LEAST_BEGINNING) return near;
  // `vgpu`, and `virtio-net-pci` as QEMU has it.
  const lower = word.toLowerCase();
  return meant(forms.filter((name) => name.startsWith(lower) || lower.startsWith(`${name}-`)));
}

/** The word, and what follows it from the colon on. */
function split(address: string): readonly [word: string, rest: string] {
  const trimmed = address.trim();
  const at = trimmed.indexOf(':');
  return at < 0 ? [trimmed, ''] : [trimmed.slice(0, at), trimmed.slice(at)];
}

function meant(addresses: readonly string[]): string {
  if (addresses.length === 0) return '';
  const [last = '', ...others] = [...addresses].reverse();
  return `; did you mean ${others.length === 0 ? last : `${others.reverse().join(', ')} or ${last}`}?`;
}
