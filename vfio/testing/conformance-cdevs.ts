/** Rules of cdevs and iommufd. */
import assert from 'node:assert/strict';
import { iova } from '../../sys/address.js';
import { VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_MIGRATION } from '../feature.js';
import { fails, PAGE, type Rule, RW, takesRemote } from './conformance-bench.js';

/** What holds of every provider with cdevs. */
export const cdevRules: readonly Rule[] = [
  [
    'a cdev does nothing before it is bound, and everything after',
    (bench) => {
      const { cdev } = bench.cdev();
      fails('EINVAL', 'GET_INFO', () => cdev.getInfo());
      fails('EINVAL', 'read', () => cdev.read(0, new Uint8Array(4)));
      fails('EINVAL', 'SET_IRQS', () => cdev.setIrqs({ index: 0, flags: 0x21, start: 0, count: 1 }));
      fails('EINVAL', 'ATTACH', () => cdev.attachIoas(1));
      fails('EINVAL', 'FEATURE', () =>
        cdev.deviceFeature(VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION),
      );
      cdev.bindIommufd(bench.iommufd());
      cdev.getInfo();
    },
  ],
  [
    'a cdev is bound once, and so is its device',
    (bench) => {
      const [first, second] = [bench.cdev().cdev, bench.cdev().cdev];
      const iommufd = bench.iommufd();
      first.bindIommufd(iommufd);
      fails('EINVAL', 'BIND twice', () => first.bindIommufd(iommufd));
      fails('EINVAL', 'BIND of a second file', () => second.bindIommufd(iommufd));
    },
  ],
  [
    'an IOAS maps, unmaps, and is not destroyed under a device',
    (bench) => {
      const iommufd = bench.iommufd();
      const { cdev } = bench.cdev();
      cdev.bindIommufd(iommufd);
      const ioas = iommufd.ioasAlloc();
      cdev.attachIoas(ioas);
      const at = iova(0x10_0000n);
      const map = { flags: RW, vaddr: bench.vaddr, iova: at, size: 4n * PAGE };
      assert.equal(iommufd.ioasMap(ioas, map), at);
      fails('EEXIST', 'overlap', () => iommufd.ioasMap(ioas, map));
      fails('ENOENT', 'in part', () => iommufd.ioasUnmap(ioas, { iova: at, size: PAGE }));
      fails('EBUSY', 'destroy', () => iommufd.destroy(ioas));
      assert.equal(iommufd.ioasUnmap(ioas, { iova: at, size: 4n * PAGE }), 4n * PAGE);
      fails('ENOENT', 'unmap twice', () => iommufd.ioasUnmap(ioas, { iova: at, size: 4n * PAGE }));
      cdev.detachIoas();
      iommufd.destroy(ioas);
      fails('ENOENT', 'destroy twice', () => iommufd.destroy(ioas));
    },
  ],
  [
    'an IOAS maps remote memory for devices that can access it, or refuses it with ENOTSUP',
    (bench) => {
      const iommufd = bench.iommufd();
      const ioas = iommufd.ioasAlloc();
      const [at, size] = [iova(0x10_0000n), PAGE];
      const remote = { rw: () => assert.fail('nobody accesses it') };
      const isMapped = takesRemote(() => iommufd.ioasMap(ioas, { flags: RW, remote, iova: at, size }));
      if (isMapped) assert.equal(iommufd.ioasUnmap(ioas, { iova: at, size }), size);
      else fails('ENOENT', 'unmap', () => iommufd.ioasUnmap(ioas, { iova: at, size }));
      iommufd.destroy(ioas);
    },
  ],
  [
    'IOAS_MAP refuses flags, ranges and directions that make no sense, IOAS_UNMAP an empty range',
    (bench) => {
      const iommufd = bench.iommufd();
      const ioas = iommufd.ioasAlloc();
      const max = (1n << 64n) - 1n;
      const map = { flags: RW, vaddr: bench.vaddr, iova: iova(0x10_0000n), size: PAGE };
      fails('ENOTSUP', 'unknown flag', () => iommufd.ioasMap(ioas, { ...map, flags: RW | 0x80 }));
      fails('EOVERFLOW', 'size', () => iommufd.ioasMap(ioas, { ...map, size: max }));
      fails('EINVAL', 'no direction', () => iommufd.ioasMap(ioas, { ...map, flags: 0 }));
      fails('EINVAL', 'empty', () => iommufd.ioasMap(ioas, { ...map, size: 0n }));
      fails('ENOENT', 'no such IOAS', () => iommufd.ioasMap(0xffff, map));
      fails('EINVAL', 'unmap of nothing', () => iommufd.ioasUnmap(ioas, { iova: iova(0n), size: 0n }));
      fails('EOVERFLOW', 'unmap past the end', () =>
        iommufd.ioasUnmap(ioas, { iova: iova(PAGE), size: max }),
      );
      iommufd.destroy(ioas);
    },
  ],
  [
    'an IOAS has one range and takes any alignment while nothing is attached, and whole pages after',
    (bench) => {
      const iommufd = bench.iommufd();
      const { cdev } = bench.cdev();
      cdev.bindIommufd(iommufd);
      const ioas = iommufd.ioasAlloc();
      assert.deepEqual(iommufd.ioasIovaRanges(ioas), [{ start: 0n, last: (1n << 64n) - 1n }]);
      const map = { flags: RW, vaddr: bench.vaddr, iova: iova(0x10_0008n), size: 16n };
      assert.equal(iommufd.ioasMap(ioas, map), 0x10_0008n);
      fails('EADDRINUSE', 'ATTACH', () => cdev.attachIoas(ioas));
      assert.equal(iommufd.ioasUnmap(ioas, { iova: iova(0x10_0000n), size: PAGE }), 16n);
      cdev.attachIoas(ioas);
      fails('EINVAL', 'misaligned', () => iommufd.ioasMap(ioas, map));
      cdev.detachIoas();
      iommufd.destroy(ioas);
    },
  ],
  [
    'an IOAS finds a free range itself',
    (bench) => {
      const iommufd = bench.iommufd();
      const ioas = iommufd.ioasAlloc();
      const map = { flags: RW, vaddr: bench.vaddr, size: 4n * PAGE };
      const first = iommufd.ioasMap(ioas, map);
      const second = iommufd.ioasMap(ioas, map);
      assert.notEqual(first, second);
      assert.equal(iommufd.ioasUnmap(ioas, { iova: iova(0n), size: (1n << 64n) - 1n }), 8n * PAGE);
      iommufd.destroy(ioas);
    },
  ],
];
