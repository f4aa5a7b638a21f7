import { COM_PORTS } from '../../devices/serial.js';
import { elfOf } from './elf.js';

const EOT = 4;

/** A guest that sends back what it receives at a serial port, and ends with verdict 0 after an EOT (Ctrl-D). It leaves the FIFOs
 * off: enabling them clears what has come before. */
export function echoGuest(port: number): Uint8Array {
  const base = COM_PORTS[port]?.port ?? 0;
  const mov = (offset: number) => [0x66, 0xba, (base + offset) & 0xff, (base + offset) >> 8]; // mov dx, base + offset
  const [IN, OUT] = [0xec, 0xee];
  const awaitBit = (bit: number) => [...mov(5), IN, 0xa8, bit, 0x74, 0xf7]; // in al, dx; test al, bit; jz -9
  const echo = [0x88, 0xc3, ...awaitBit(0x20), 0x88, 0xd8, ...mov(0), OUT]; // mov bl, al; ...; mov al, bl; out dx, al
  const read = [...awaitBit(1), ...mov(0), IN, 0x3c, EOT, 0x74, echo.length + 2]; // cmp al, EOT; je over the echo
  const again = [0xeb, 0x100 - (read.length + echo.length + 2)];
  const end = [0xb0, 0, 0xe6, 0xf4, 0xf4]; // mov al, 0; out 0xf4, al; hlt
  return elfOf([...read, ...echo, ...again, ...end]);
}
