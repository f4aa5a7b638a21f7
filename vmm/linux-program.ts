import type { VmConfig } from './config.js';
import type { GuestProgram } from './guest-program.js';
import { openInitrd, prepareLinux, readKernel, renewGeneration, setUpLinuxVcpu } from './linux/index.js';

/** Without a command line of its own, a kernel talks on the serial port. */
const DEFAULT_COMMAND_LINE = 'console=ttyS0';

/** A Linux kernel, with what it needs of a PC. @throws InputFileError, GuestImageError naming the path */
export function linuxProgram(path: string, config: VmConfig): GuestProgram {
  const kernel = readKernel(path);
  const initrd = config.initrd === undefined ? undefined : openInitrd(config.initrd);
  const serialPorts = config.serial.flatMap((end, port) => (end === 'none' ? [] : port));
  const cmdline = config.cmdline || DEFAULT_COMMAND_LINE;
  return {
    hasAcpi: true,
    // With ACPI a kernel could assign them itself; without (pci=noacpi, acpi=off) it does not know the windows.
    expectsBars: true,
    setUpVcpu: (vcpu, apicId, host) => setUpLinuxVcpu(vcpu, { apicId, vcpus: config.vcpus, ...host }),
    load(memory, boot) {
      const { entry } = prepareLinux({ kernel, initrd, cmdline, memory, vcpus: config.vcpus, serialPorts });
      boot.setSregs({ ...boot.getSregs(), ...entry.sregs });
      boot.setRegs(entry.regs);
    },
    renewGeneration,
  };
}
