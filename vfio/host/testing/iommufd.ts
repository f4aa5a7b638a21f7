import { hva } from '../../../sys/address.js';
import { viewOf } from '../../../sys/mapping.js';
import {
  IOMMU_DESTROY,
  IOMMU_IOAS_ALLOC,
  IOMMU_IOAS_IOVA_RANGES,
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_MAP_FIXED_IOVA,
  IOMMU_IOAS_MAP_READABLE,
  IOMMU_IOAS_MAP_WRITEABLE,
  IOMMU_IOAS_UNMAP,
  IoasAlloc,
  IoasIovaRanges,
  IoasMap,
  IoasUnmap,
  IommuDestroy,
  IommuIovaRange,
} from '../structs-iommufd.js';
import { argszOf, type FakeObject, refuse, structure } from './call.js';

const PAGE = 4096n;
const U64_MAX = (1n << 64n) - 1n;

export interface FakeIoas {
  maps: { readonly iova: bigint; readonly size: bigint }[];
  readonly users: Set<object>;
}

/** /dev/iommu. */
export class FakeIommufd implements FakeObject {
  /** What IOAS_IOVA_RANGES says. */
  ranges: readonly { readonly start: bigint; readonly last: bigint }[] = [{ start: 0n, last: U64_MAX }];
  readonly #objects = new Map<number, FakeIoas | 'device'>();
  #next = 1;

  addDevice(): number {
    this.#objects.set(this.#next, 'device');
    return this.#next++;
  }

  removeDevice(id: number): void {
    this.#objects.delete(id);
  }

  ioas(id: number): FakeIoas {
    const object = this.#objects.get(id);
    return object === undefined || object === 'device' ? refuse('ENOENT') : object;
  }

  ioctl(number: number, argument: number | Uint8Array): number {
    const bytes = structure(argument);
    switch (number) {
      case IOMMU_IOAS_ALLOC.number:
        argszOf(bytes, IoasAlloc.size);
        IoasAlloc.write(bytes, { out_ioas_id: this.#next });
        this.#objects.set(this.#next++, { maps: [], users: new Set() });
        return 0;
      case IOMMU_IOAS_MAP.number:
        return this.#map(bytes);
      case IOMMU_IOAS_UNMAP.number:
        return this.#unmap(bytes);
      case IOMMU_IOAS_IOVA_RANGES.number:
        return this.#iovaRanges(bytes);
      case IOMMU_DESTROY.number: {
        argszOf(bytes, IommuDestroy.size);
        const { id } = IommuDestroy.decode(bytes);
        const object = this.#objects.get(id) ?? refuse('ENOENT');
        if (object === 'device' || object.users.size > 0) refuse('EBUSY');
        this.#objects.delete(id);
        return 0;
      }
      default:
        return refuse('ENOTTY');
    }
  }

  #map(bytes: Uint8Array): number {
    argszOf(bytes, IoasMap.size);
    const { flags, ioas_id, user_va, length, iova } = IoasMap.decode(bytes);
    const rights = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;
    if ((flags & ~(IOMMU_IOAS_MAP_FIXED_IOVA | rights)) !== 0) refuse('ENOTSUP');
    if (iova === U64_MAX || length === U64_MAX) refuse('EOVERFLOW');
    if ((flags & rights) === 0) refuse('EINVAL');
    const ioas = this.ioas(ioas_id);
    if (user_va + length > U64_MAX) refuse('EOVERFLOW');
    const isFixed = (flags & IOMMU_IOAS_MAP_FIXED_IOVA) !== 0;
    const alignment = ioas.users.size === 0 ? 1n : PAGE;
    if (length === 0n || (length | user_va | (isFixed ? iova : 0n)) % alignment !== 0n) refuse('EINVAL');
    if (isFixed && iova + length - 1n > U64_MAX) refuse('EOVERFLOW');
    const end = ioas.maps.reduce(
      (last, map) => (map.iova + map.size > last ? map.iova + map.size : last),
      PAGE,
    );
    const at = isFixed ? iova : end;
    if (ioas.maps.some((map) => at < map.iova + map.size && map.iova < at + length)) refuse('EEXIST');
    ioas.maps.push({ iova: at, size: length });
    IoasMap.write(bytes, { iova: at });
    return 0;
  }

  #unmap(bytes: Uint8Array): number {
    argszOf(bytes, IoasUnmap.size);
    const { ioas_id, iova, length } = IoasUnmap.decode(bytes);
    const ioas = this.ioas(ioas_id);
    const isAll = iova === 0n && length === U64_MAX;
    if (!isAll && (iova === U64_MAX || length === U64_MAX)) refuse('EOVERFLOW');
    if (length === 0n) refuse('EINVAL');
    if (!isAll && iova + length - 1n > U64_MAX) refuse('EOVERFLOW');
    const end = isAll ? U64_MAX : iova + length;
    const touched = ioas.maps.filter((map) => map.iova < end && iova < map.iova + map.size);
    if (touched.some((map) => map.iova < iova || map.iova + map.size > end)) refuse('ENOENT');
    if (touched.length === 0 && !isAll) refuse('ENOENT');
    ioas.maps = ioas.maps.filter((map) => !touched.includes(map));
    IoasUnmap.write(bytes, { length: touched.reduce((sum, map) => sum + map.size, 0n) });
    return 0;
  }

  #iovaRanges(bytes: Uint8Array): number {
    argszOf(bytes, IoasIovaRanges.size);
    const { ioas_id, num_iovas, allowed_iovas } = IoasIovaRanges.decode(bytes);
    this.ioas(ioas_id);
    IoasIovaRanges.write(bytes, { num_iovas: this.ranges.length, out_iova_alignment: 1n });
    const room = Math.min(num_iovas, this.ranges.length);
    const { view, at } = viewOf(hva(allowed_iovas), BigInt(room * IommuIovaRange.size), 'copy_to_user');
    const target = view.slice(at, room * IommuIovaRange.size);
    for (const [i, range] of this.ranges.slice(0, room).entries())
      IommuIovaRange.write(target, range, i * IommuIovaRange.size);
    if (num_iovas < this.ranges.length) refuse('EMSGSIZE');
    return 0;
  }
}
