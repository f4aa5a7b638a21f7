/** The sysfs of a card whose VFs become vGPUs by an attribute, as NVIDIA's driver offers it: a tree for fuse-mount.ts. */
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import type { FuseAttribute, FuseFolder, FuseLink, FuseNode } from '../sys/fuse-tree.js';

/** A type of vGPU. */
export interface VfCardType {
  readonly id: number;
  readonly name: string;
}

/** What the attributes act on. VFs are numbered from 0 on. */
export interface VfCard {
  /** How many VFs it can have. */
  readonly totalVfs: number;
  /** How many it has now. */
  readonly numVfs: number;
  /** @throws SysError as writing `sriov_numvfs` */
  setNumVfs(count: number): void;
  /** ID of a VF's type; 0 if it has none. */
  current(vf: number): number;
  /** What a VF could be given now. */
  creatable(vf: number): readonly VfCardType[];
  /** @param pid of the process that asks for it @throws SysError as writing `nvidia/current_vgpu_type` */
  setType(vf: number, id: number, pid: number): void;
  /** Where its device is served, while it has a type. */
  socket(vf: number): string | undefined;
  /** Tells why something that is no number was refused: who wrote it gets the errno alone. Returns the error. */
  refused(error: SysError): SysError;
}

type Nodes = Readonly<Record<string, FuseNode>>;

const BUS = 'pci0000:40';
const PF = '0000:41:00.0';
/** Of NVIDIA's cards; VFs are neighbours from there on. */
const FIRST_VF_OFFSET = 4;
/** Beside the driver's name, the driver's attributes are all that this card has of NVIDIA's. */
const DRIVER = 'nvidia';
/** As the vGPUs themselves: QEMU's standard VGA, which bochs-drm drives. */
const OWN_ID = '1234:1111';
const OWN_CLASS = '0x038000';
/** Of cards with VFs for vGPUs, by which software that asks for their ID knows them, too: a 3D controller. */
const OTHER_CLASS = '0x030200';
const FIRST_GROUP = 1;

/** A type that every card of the driver `vgpu` has: it tells the card, and its provider, from others. */
export const VGPU_TYPE = 'vgpu-whole';

/** Most VFs of a card: those of NVIDIA's. */
export const MOST_VFS = 32;

/** PCI address of a VF. */
export function vfAddress(vf: number): string {
  const function_ = FIRST_VF_OFFSET + vf;
  return `0000:41:${hex(function_ >> 3)}.${function_ & 7}`;
}

const hex = (number: number): string => number.toString(16).padStart(2, '0');

/** Whether a text is a PCI ID: `10de:26b9`. */
export const isPciId = (text: string): boolean => /^[0-9a-f]{4}:[0-9a-f]{4}$/i.test(text);

/**
 * The tree: /sys as far as PCI functions, their groups and their drivers are concerned.
 * @param id PCI ID of all functions, if it is not to be that of the vGPUs
 */
export function vfSysfs(card: VfCard, id?: string): FuseFolder {
  const identity = identityOf(id);
  const pci = () => ({
    [PF]: physicalFunction(card, identity),
    ...byVf(card, vfAddress, (vf) => virtualFunction(card, vf, identity)),
  });
  const names = () => Object.keys(pci());
  const inDevices = (from: string) => (name: string) =>
    [name, link(`${from}devices/${BUS}/${name}`)] as const;
  const links = (from: string) => () => Object.fromEntries(names().map(inDevices(from)));
  const group = (i: number) => ({
    devices: folder(() =>
      Object.fromEntries(
        names()
          .slice(i, i + 1)
          .map(inDevices('../../../../')),
      ),
    ),
    reserved_regions: text(() => '0x00000000fee00000 0x00000000feefffff msi\n'),
  });
  return tree({
    bus: tree({
      pci: tree({
        devices: folder(links('../../../')),
        drivers: tree({ [DRIVER]: folder(links('../../../../')) }),
      }),
    }),
    devices: tree({ [BUS]: folder(pci) }),
    kernel: tree({
      iommu_groups: folder(() =>
        Object.fromEntries(names().map((_, i) => [String(FIRST_GROUP + i), tree(group(i))])),
      ),
    }),
  });
}

const physicalFunction = (card: VfCard, identity: Nodes): FuseFolder =>
  folder(() => ({
    ...identity,
    ...ofFunction(FIRST_GROUP),
    sriov_totalvfs: text(() => `${card.totalVfs}\n`),
    sriov_numvfs: text(
      () => `${card.numVfs}\n`,
      (written) => card.setNumVfs(numberIn(written, 'sriov_numvfs', card)),
    ),
    ...byVf(
      card,
      (vf) => `virtfn${vf}`,
      (vf) => link(`../${vfAddress(vf)}`),
    ),
  }));

const virtualFunction = (card: VfCard, vf: number, identity: Nodes): FuseFolder =>
  folder(() => {
    const socket = card.socket(vf);
    return {
      ...identity,
      ...ofFunction(FIRST_GROUP + 1 + vf),
      physfn: link(`../${PF}`),
      nvidia: tree({
        creatable_vgpu_types: text(() => creatableText(card.creatable(vf))),
        current_vgpu_type: text(
          () => `${card.current(vf)}\n`,
          (written, pid) =>
            card.setType(vf, numberIn(written, `${vfAddress(vf)} current_vgpu_type`, card), pid),
        ),
      }),
      ...(socket === undefined ? {} : { vfio_user_socket: text(() => `${socket}\n`) }),
    };
  });

function identityOf(id: string | undefined): Nodes {
  const [vendor, device] = (id ?? OWN_ID).toLowerCase().split(':');
  return {
    vendor: text(() => `0x${vendor}\n`),
    device: text(() => `0x${device}\n`),
    class: text(() => `${id === undefined ? OWN_CLASS : OTHER_CLASS}\n`),
  };
}

const ofFunction = (group: number): Nodes => ({
  numa_node: text(() => '-1\n'),
  subsystem: link('../../../bus/pci'),
  driver: link(`../../../bus/pci/drivers/${DRIVER}`),
  iommu_group: link(`../../../kernel/iommu_groups/${group}`),
});

const creatableText = (types: readonly VfCardType[]): string =>
  ['ID    : vGPU Name', ...types.map(({ id, name }) => `${String(id).padEnd(5)} : ${name}`), ''].join('\n');

/** As the kernel's kstrtoul() reads one of base 10: up to a zero byte, which C programs write, too. */
function numberIn(written: string, target: string, card: VfCard): number {
  const [, digits] = /^\+?(\d{1,10})\n?(?:\0|$)/.exec(written) ?? [];
  if (digits !== undefined) return Number(digits);
  const hint = 'it takes a decimal number';
  throw card.refused(new SysError({ call: 'write', target, errno: errno.EINVAL, hint }));
}

const byVf = <T>(card: VfCard, name: (vf: number) => string, node: (vf: number) => T) =>
  Object.fromEntries(Array.from({ length: card.numVfs }, (_, vf) => [name(vf), node(vf)]));

const folder = (entries: FuseFolder['entries']): FuseFolder => ({ kind: 'folder', entries });
const tree = (entries: Nodes): FuseFolder => folder(() => entries);
const link = (target: string): FuseLink => ({ kind: 'link', target });
const text = (read: () => string, write?: FuseAttribute['write']): FuseAttribute => ({
  kind: 'attribute',
  read,
  ...(write === undefined ? {} : { write }),
});
