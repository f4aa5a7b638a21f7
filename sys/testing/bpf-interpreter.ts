/** Runs a classic BPF program as the kernel does for seccomp(2), and rejects what the kernel's verifier would. */

/** A system call as the filter sees it. */
export interface SeccompData {
  readonly nr: number;
  readonly arch?: number;
  /** Up to six, as unsigned 64-bit values. */
  readonly args?: readonly (number | bigint)[];
}

const AUDIT_ARCH_X86_64 = 0xc000003e;
const SIZEOF_SECCOMP_DATA = 64;

export function seccompData({ nr, arch = AUDIT_ARCH_X86_64, args = [] }: SeccompData): DataView {
  const view = new DataView(new ArrayBuffer(SIZEOF_SECCOMP_DATA));
  view.setUint32(0, nr, true);
  view.setUint32(4, arch, true);
  for (const [i, arg] of args.entries()) view.setBigUint64(16 + 8 * i, BigInt.asUintN(64, BigInt(arg)), true);
  return view;
}

/** The value that the program returns. @throws Error for an instruction or a jump that the kernel would refuse */
export function runBpf(program: Uint8Array<ArrayBuffer>, data: DataView): number {
  const code = new DataView(program.buffer, program.byteOffset, program.byteLength);
  const count = program.length / 8;
  let accumulator = 0;
  for (let pc = 0; pc < count; pc++) {
    const [opcode, whenTrue, whenFalse, k] = [
      code.getUint16(8 * pc, true),
      code.getUint8(8 * pc + 2),
      code.getUint8(8 * pc + 3),
      code.getUint32(8 * pc + 4, true),
    ];
    const branch = (isTrue: boolean) => {
      pc += isTrue ? whenTrue : whenFalse;
    };
    switch (opcode) {
      case 0x20:
        if (k % 4 !== 0 || k >= SIZEOF_SECCOMP_DATA) throw new Error(`load at ${k}`);
        accumulator = data.getUint32(k, true);
        break;
      case 0x05:
        pc += k;
        break;
      case 0x15:
        branch(accumulator === k);
        break;
      case 0x35:
        branch(accumulator >= k);
        break;
      case 0x45:
        branch((accumulator & k) !== 0);
        break;
      case 0x54:
        accumulator = (accumulator & k) >>> 0;
        break;
      case 0x06:
        return k;
      default:
        throw new Error(`instruction ${opcode.toString(16)} at ${pc}`);
    }
  }
  throw new Error('the program has no end');
}
