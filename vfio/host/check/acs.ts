/** PCI access control services: whether the ports above a device keep its peers apart. */
import { readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { pciAddress } from '../../addresses.js';
import type { SysfsDevice } from '../sysfs.js';
import { says } from './evidence.js';
import type { CheckEvidence } from './finding.js';

// linux/pci_regs.h
const PCI_CFG_SPACE_SIZE = 0x100;
const PCI_EXT_CAP_ID_ACS = 0x0d;
const PCI_ACS_CTRL = 0x06;
/** Source validation, request and completion redirect, upstream forwarding: what the kernel's groups are built on. */
const PCI_ACS_ISOLATION = 0x01 | 0x04 | 0x08 | 0x10;
/** Extended capabilities fill 3840 bytes, at least 8 each: a longer list is a circle. */
const MOST_CAPABILITIES = 480;

/** What the ports above these devices say, each once; ports whose extended configuration space cannot be read say so. */
export function acsOf(devices: readonly SysfsDevice[]): CheckEvidence[] {
  const ports = new Set(devices.flatMap(({ path }) => portsAbove(path)));
  return [...ports].map((path) => {
    const config = read(join(path, 'config'));
    return says(join(path, 'config'), config === undefined ? 'cannot be read' : describeAcs(config));
  });
}

function portsAbove(path: string): string[] {
  const parent = dirname(path);
  return pciAddress(basename(parent)) === undefined ? [] : [parent, ...portsAbove(parent)];
}

/** ACS of a port, from its configuration space. */
export function describeAcs(config: Uint8Array): string {
  if (config.length <= PCI_CFG_SPACE_SIZE) return 'access control (ACS) is shown to root only';
  const view = new DataView(config.buffer, config.byteOffset, config.length);
  let at = PCI_CFG_SPACE_SIZE;
  for (
    let left = MOST_CAPABILITIES;
    left > 0 && at >= PCI_CFG_SPACE_SIZE && at + 8 <= config.length;
    left--
  ) {
    const header = view.getUint32(at, true);
    if ((header & 0xffff) === PCI_EXT_CAP_ID_ACS) {
      const control = view.getUint16(at + PCI_ACS_CTRL, true);
      const isOn = (control & PCI_ACS_ISOLATION) === PCI_ACS_ISOLATION;
      return `access control (ACS) is ${isOn ? 'on' : `off (control 0x${control.toString(16)})`}`;
    }
    at = header >>> 20;
  }
  return 'it has no access control (ACS): devices behind it reach each other past the IOMMU';
}

function read(path: string): Uint8Array | undefined {
  try {
    return readFileSync(path);
  } catch {
    return undefined;
  }
}
