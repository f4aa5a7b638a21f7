import { Cpuid2, CpuidEntry2 } from './uapi.js';

/** Encodes `struct kvm_cpuid2`. @param room capacity in entries, for the kernel to fill */
export function encodeCpuid(entries: readonly CpuidEntry2[], room = entries.length): Uint8Array<ArrayBuffer> {
  const bytes = Cpuid2.encode({ nent: room }, room * CpuidEntry2.size);
  entries.forEach((entry, i) => {
    CpuidEntry2.write(bytes, entry, Cpuid2.size + i * CpuidEntry2.size);
  });
  return bytes;
}

/** Decodes the entries of a `struct kvm_cpuid2`. */
export function decodeCpuid(bytes: Uint8Array): CpuidEntry2[] {
  const { nent } = Cpuid2.decode(bytes);
  return Array.from({ length: nent }, (_, i) =>
    CpuidEntry2.decode(bytes, Cpuid2.size + i * CpuidEntry2.size),
  );
}
