/** A guest that writes to its memory all the time, and notices a page that has not what it wrote. */
import { COM_PORTS } from '../../devices/serial.js';
import { elfOf } from './elf.js';

const FIRST = 0x40_0000;
/** Its pages, from {@link FIRST} on. */
export const SWEPT_PAGES = 1200;
/** The progress code of its third pass. */
export const SWEEPING = 0x51;

const u32 = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);

/**
 * In each pass it checks that every page has the number of the pass before, and writes its own. It ends with verdict 0
 * after a whole pass that began when input was at COM1, and with 1 at a page that is wrong.
 */
export function sweepingGuest(): Uint8Array {
  const verdict = (status: number) => [0xb0, status, 0xe6, 0xf4, 0xfa, 0xf4]; // mov al, status; out 0xf4, al; cli; hlt
  const lineStatus = (COM_PORTS[0]?.port ?? 0) + 5;
  const visit = [
    ...[0x39, 0x33], // cmp [rbx], esi
    ...[0x74, 6], // je over the verdict
    ...verdict(1),
    ...[0x8d, 0x46, 1], // lea eax, [rsi + 1]
    ...[0x89, 0x03], // mov [rbx], eax
    ...[0x81, 0xc3, ...u32(4096)], // add ebx, 4096
    ...[0xff, 0xc9], // dec ecx
  ];
  const announce = [0xb0, SWEEPING, 0xe6, 0x80]; // mov al, SWEEPING; out 0x80, al
  const pass = [
    ...[0xbb, ...u32(FIRST), 0xb9, ...u32(SWEPT_PAGES)], // mov ebx, FIRST; mov ecx, SWEPT_PAGES
    ...visit,
    ...[0x75, -(visit.length + 2) & 0xff], // jnz to the next page
    ...[0xff, 0xc6], // inc esi
    ...[0x83, 0xfe, 2, 0x75, announce.length], // cmp esi, 2; jne over the code
    ...announce,
    ...[0x85, 0xff, 0x74, 6], // test edi, edi; jz over the verdict
    ...verdict(0),
    ...[0x66, 0xba, lineStatus & 0xff, lineStatus >> 8, 0xec], // mov dx, lineStatus; in al, dx
    ...[0x83, 0xe0, 1, 0x89, 0xc7], // and eax, 1; mov edi, eax
  ];
  const begin = [0x31, 0xf6, 0x31, 0xff]; // xor esi, esi; xor edi, edi
  return elfOf([...begin, ...pass, 0xeb, -(pass.length + 2) & 0xff]);
}
