/** The environment of a conformance case: opens files, and checks how a call fails. */
import assert from 'node:assert/strict';
import { type Hva, iova } from '../../sys/address.js';
import { isErrno } from '../../sys/error.js';
import type { Mapping } from '../../sys/mapping.js';
import type { Scope } from '../../sys/scope.js';
import { cdevsOf, groupsOf } from '../interfaces.js';
import type { AssignableDevice, VfioProvider } from '../provider.js';
import {
  type CdevFile,
  type ContainerFile,
  type DeviceFile,
  type GroupFile,
  type IommufdFile,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_TYPE1v2_IOMMU,
} from '../uapi.js';

/** The provider and device that the suite tests. */
export interface ConformanceTarget {
  /** The provider under test. */
  readonly provider: VfioProvider;
  /** Address of an unused device of the provider that is alone in its group. */
  readonly address: string;
  /** Options for {@link VfioProvider.resolve}; none if absent. */
  readonly options?: Readonly<Record<string, string>>;
  /** At least 16 pages of this process's memory; lives as long as the suite. */
  readonly memory: Mapping;
  /** A number that no IOMMU group has. */
  readonly unusedGroup?: number;
  /** Whether the provider has groups and containers; true if absent. */
  readonly hasGroups?: boolean;
  /** Whether the provider has cdevs and iommufd; true if absent. */
  readonly hasCdev?: boolean;
}

export type Code =
  | 'EINVAL'
  | 'EBUSY'
  | 'ENODEV'
  | 'EEXIST'
  | 'ENOENT'
  | 'EFAULT'
  | 'ENOTTY'
  | 'EBADF'
  | 'ENOTSUP'
  | 'EADDRINUSE'
  | 'EOVERFLOW';

export const PAGE = 4096n;
export const RW = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;

/** Asserts that `body` fails with one of the given errno values. */
export function fails(codes: Code | readonly Code[], what: string, body: () => unknown): void {
  const wanted = typeof codes === 'string' ? [codes] : codes;
  try {
    body();
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    assert.ok((wanted as readonly string[]).includes(code), `${what}: ${code}, not ${wanted.join(' or ')}`);
    return;
  }
  assert.fail(`${what}: no error, not ${wanted.join(' or ')}`);
}

/** Opens files for a case, and closes them after it, last opened first. */
export class Bench {
  readonly target: ConformanceTarget;
  readonly scope: Scope;
  readonly device: AssignableDevice;

  constructor(target: ConformanceTarget, scope: Scope) {
    this.target = target;
    this.scope = scope;
    this.device = scope.own(target.provider.resolve(target.address, target.options ?? {}));
  }

  get provider(): VfioProvider {
    return this.target.provider;
  }

  group(): GroupFile {
    return this.scope.own(groupsOf(this.provider).openGroup(this.device.group));
  }

  container(): ContainerFile {
    return this.scope.own(groupsOf(this.provider).openContainer());
  }

  /** A group in a container with an IOMMU. */
  contained(): { group: GroupFile; container: ContainerFile } {
    const container = this.container();
    const group = this.group();
    group.setContainer(container);
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    return { group, container };
  }

  /** The device, opened through its group, or bound to an iommufd if the provider has no groups. */
  file(): DeviceFile {
    if (this.target.hasGroups !== false)
      return this.scope.own(this.contained().group.getDeviceFd(this.device.name));
    const { cdev } = this.cdev();
    cdev.bindIommufd(this.iommufd());
    return cdev;
  }

  iommufd(): IommufdFile {
    return this.scope.own(cdevsOf(this.provider).openIommufd());
  }

  cdev(): { cdev: CdevFile } {
    return { cdev: this.scope.own(cdevsOf(this.provider).openCdev(this.device.cdev ?? 'none')) };
  }

  get vaddr(): Hva {
    return this.target.memory.hva;
  }

  map(container: ContainerFile, at: bigint, pages: bigint, flags = RW): void {
    container.mapDma({ flags, vaddr: this.vaddr, iova: iova(at), size: pages * PAGE });
  }
}

/** A rule, and the check that it holds. */
export type Rule = readonly [name: string, run: (bench: Bench) => void];

/** Whether a map of remote memory was accepted; the only other outcome is ENOTSUP. */
export function takesRemote(map: () => unknown): boolean {
  try {
    map();
    return true;
  } catch (error) {
    assert.ok(isErrno(error, 'ENOTSUP'), String(error));
    return false;
  }
}
