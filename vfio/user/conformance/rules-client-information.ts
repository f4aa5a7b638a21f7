/** Rules of what a server tells about its device, for clients: the numbers of a hostile one. */
import { Fd } from '../../../sys/fd.js';
import { Scope } from '../../../sys/scope.js';
import { unixSocketPair } from '../../../sys/unix-socket.js';
import {
  VFIO_USER_DEVICE_GET_INFO,
  VFIO_USER_DEVICE_GET_IRQ_INFO,
  VFIO_USER_DEVICE_GET_REGION_INFO,
  VFIO_USER_DEVICE_GET_REGION_IO_FDS,
  VFIO_USER_REGION_READ,
} from '../protocol.js';
import type { Said } from './client-play.js';
import { type ClientRule, ending, survives, twisting } from './client-rule.js';
import { words } from './payloads.js';
import { MAPPED_BAR, VECTORS } from './played-config.js';
import { inapplicable } from './report.js';

const REGION = VFIO_USER_DEVICE_GET_REGION_INFO;
const SECTION = 'VFIO_USER_DEVICE_GET_REGION_INFO';
const ARGSZ = 0;
const [FLAGS, CAP_OFFSET, SIZE, FD_OFFSET] = [4, 12, 16, 24];
const SPARSE = 32;
const [NEXT, NR_AREAS, AREA] = [SPARSE + 4, SPARSE + 8, SPARSE + 16];

const view = ({ buffer, byteOffset, byteLength }: Uint8Array) => new DataView(buffer, byteOffset, byteLength);

/** The info of the region that can be mapped, changed; where it has capabilities if `isWhole`. */
function region(
  name: string,
  sent: string,
  isWhole: boolean,
  change: (fields: DataView, payload: Uint8Array) => Partial<Said> | undefined,
): ClientRule {
  return survives(
    { name, section: SECTION, sent },
    {
      twist: twisting(REGION, ({ payload }, asked) => {
        if (asked.payload.length < 12 || view(asked.payload).getUint32(8, true) !== MAPPED_BAR)
          return undefined;
        if (isWhole && payload.length <= SPARSE) return undefined;
        const changed = payload.slice();
        return [{ payload: changed, ...change(view(changed), changed) }];
      }),
    },
  );
}

/** The region's descriptor is another one. */
const describedBy = (name: string, sent: string, open: (scope: Scope) => readonly Fd[]): ClientRule => ({
  ...region(name, sent, true, () => undefined),
  options: {},
  async play(play) {
    using scope = new Scope();
    let wasSent = false;
    while (play.end === undefined) {
      const held = await play.hold(REGION);
      if (held === undefined) break;
      const isIt = held.fds.length > 0;
      const fds = isIt ? open(scope).map(({ number }) => number) : held.fds;
      await play.send({ ...held, fds });
      wasSent ||= isIt;
      if (isIt) break;
    }
    if (!wasSent) return inapplicable('it asks for no descriptor of a region');
    await play.settle();
    return ending(play);
  },
});

const device = (name: string, sent: string, payload: Uint8Array): ClientRule =>
  survives(
    { name, section: 'VFIO_USER_DEVICE_GET_INFO', sent },
    { twist: twisting(VFIO_USER_DEVICE_GET_INFO, () => [{ payload }]) },
  );

const MOST = 0xffff_ffff;
const [RESET_AND_PCI, REGIONS, IRQS] = [3, 9, 5];

export const CLIENT_INFORMATION_RULES: readonly ClientRule[] = [
  device('device-info-no-regions', 'a device without regions', words(16, RESET_AND_PCI, 0, IRQS)),
  device('device-info-regions-huge', 'a device with 2^32 - 1 regions', words(16, RESET_AND_PCI, MOST, IRQS)),
  device('device-info-no-irqs', 'a device without interrupts', words(16, RESET_AND_PCI, REGIONS, 0)),
  device(
    'device-info-irqs-huge',
    'a device with 2^32 - 1 kinds of interrupts',
    words(16, RESET_AND_PCI, REGIONS, MOST),
  ),
  device('device-info-no-pci', 'a device that is not PCI', words(16, 0, REGIONS, IRQS)),
  device('device-info-flags-unknown', 'a device with all flags', words(16, MOST, REGIONS, IRQS)),
  device('device-info-argsz-0', 'a reply with argsz 0', words(0, RESET_AND_PCI, REGIONS, IRQS)),
  device('device-info-argsz-huge', 'a reply with argsz 2^32 - 1', words(MOST, RESET_AND_PCI, REGIONS, IRQS)),
  region(
    'region-info-size-huge',
    'a region of 2^64 - 1 bytes',
    false,
    (fields) => fields.setBigUint64(SIZE, ~0n, true) as undefined,
  ),
  region('region-info-size-wraps', 'a region of 2^63 bytes at offset 2^63 of its file', false, (fields) => {
    fields.setBigUint64(SIZE, 1n << 63n, true);
    return fields.setBigUint64(FD_OFFSET, 1n << 63n, true) as undefined;
  }),
  region(
    'region-info-size-0',
    'a region of 0 bytes that can be mapped',
    false,
    (fields) => fields.setBigUint64(SIZE, 0n, true) as undefined,
  ),
  region(
    'region-info-other-index',
    'the info of another region',
    false,
    (fields) => fields.setUint32(8, 5, true) as undefined,
  ),
  region('region-info-argsz-huge', 'argsz 2^32 - 1, and no capabilities', false, (fields, payload) => {
    fields.setUint32(ARGSZ, MOST, true);
    return { payload: payload.slice(0, SPARSE), fds: [] };
  }),
  region('region-info-argsz-0', 'argsz 0', false, (fields) => fields.setUint32(ARGSZ, 0, true) as undefined),
  {
    ...region(
      'region-info-argsz-grows',
      'an argsz that is always larger than the one asked for',
      false,
      () => undefined,
    ),
    options: {
      twist: twisting(REGION, ({ payload }, asked) => {
        if (asked.payload.length < 12 || view(asked.payload).getUint32(8, true) !== MAPPED_BAR)
          return undefined;
        const changed = payload.slice(0, SPARSE);
        view(changed).setUint32(ARGSZ, Math.min(MOST, view(asked.payload).getUint32(0, true) + 64), true);
        return [{ payload: changed, fds: [] }];
      }),
    },
  },
  region('region-info-flags-unknown', 'all flags, and no capabilities', false, (fields, payload) => {
    fields.setUint32(FLAGS, MOST, true);
    fields.setUint32(ARGSZ, SPARSE, true);
    return { payload: payload.slice(0, SPARSE), fds: [] };
  }),
  region(
    'capabilities-circle',
    'a chain of capabilities that is a circle',
    true,
    (fields) => fields.setUint32(NEXT, SPARSE, true) as undefined,
  ),
  region(
    'capabilities-before-the-reply',
    'a chain that goes on inside of the structure',
    true,
    (fields) => fields.setUint32(NEXT, 8, true) as undefined,
  ),
  region(
    'capabilities-behind-the-reply',
    'a chain that goes on behind the reply',
    true,
    (fields) => fields.setUint32(NEXT, 0xffff_fff8, true) as undefined,
  ),
  region(
    'capabilities-at-the-end',
    'a chain that begins at the last bytes of the reply',
    true,
    (fields, payload) => fields.setUint32(CAP_OFFSET, payload.length - 4, true) as undefined,
  ),
  region(
    'capabilities-offset-huge',
    'a chain that begins at 2^32 - 1',
    true,
    (fields) => fields.setUint32(CAP_OFFSET, MOST, true) as undefined,
  ),
  region('capabilities-unknown', 'a capability that does not exist, of version 7', true, (fields) => {
    fields.setUint16(SPARSE, 0x7fff, true);
    return fields.setUint16(SPARSE + 2, 7, true) as undefined;
  }),
  region(
    'sparse-areas-huge',
    'an area count of 2^32 - 1',
    true,
    (fields) => fields.setUint32(NR_AREAS, MOST, true) as undefined,
  ),
  region(
    'sparse-areas-missing',
    'an area count of 3 with two areas',
    true,
    (fields) => fields.setUint32(NR_AREAS, 3, true) as undefined,
  ),
  region(
    'sparse-areas-none',
    'an area count of 0',
    true,
    (fields) => fields.setUint32(NR_AREAS, 0, true) as undefined,
  ),
  region(
    'sparse-area-outside',
    'an area that ends behind its region',
    true,
    (fields) => fields.setBigUint64(AREA + 8, 1n << 20n, true) as undefined,
  ),
  region(
    'sparse-area-wraps',
    'an area at 2^64 - 4096',
    true,
    (fields) => fields.setBigUint64(AREA, (1n << 64n) - 4096n, true) as undefined,
  ),
  region('sparse-area-in-a-page', 'an area at offset 16, of 100 bytes', true, (fields) => {
    fields.setBigUint64(AREA, 16n, true);
    return fields.setBigUint64(AREA + 8, 100n, true) as undefined;
  }),
  region('sparse-areas-overlap', 'two areas of the same bytes', true, (fields) => {
    fields.setBigUint64(AREA + 16, fields.getBigUint64(AREA, true), true);
    return fields.setBigUint64(AREA + 24, fields.getBigUint64(AREA + 8, true), true) as undefined;
  }),
  region('region-fd-missing', 'VFIO_REGION_INFO_FLAG_MMAP without a descriptor', true, () => ({ fds: [] })),
  region(
    'region-fd-offset-huge',
    'the offset 2^52 in the region’s file',
    true,
    (fields) => fields.setBigUint64(FD_OFFSET, 1n << 52n, true) as undefined,
  ),
  describedBy('region-fd-two', 'two descriptors for a region', (scope) => [
    scope.own(Fd.eventfd('first')),
    scope.own(Fd.eventfd('second')),
  ]),
  describedBy('region-fd-of-an-eventfd', 'an eventfd as a region’s file', (scope) => [
    scope.own(Fd.eventfd('no file')),
  ]),
  describedBy('region-fd-of-a-socket', 'a socket as a region’s file', (scope) => {
    const [near, far] = unixSocketPair('no file');
    scope.own(far);
    return [scope.own(near)];
  }),
  describedBy('region-fd-empty', 'a file of 0 bytes as a region’s file', (scope) => [
    scope.own(Fd.memfd('empty')),
  ]),
  survives(
    {
      name: 'irq-info-count-huge',
      section: 'VFIO_USER_DEVICE_GET_IRQ_INFO',
      sent: '2^32 - 1 interrupts of each kind',
    },
    {
      twist: twisting(VFIO_USER_DEVICE_GET_IRQ_INFO, (reply, { payload }) => [
        reply.errno === 0
          ? { payload: words(16, 1, payload.length < 12 ? 0 : view(payload).getUint32(8, true), MOST) }
          : {},
      ]),
    },
  ),
  survives(
    {
      name: 'irq-info-other-index',
      section: 'VFIO_USER_DEVICE_GET_IRQ_INFO',
      sent: 'the info of other interrupts',
    },
    { twist: twisting(VFIO_USER_DEVICE_GET_IRQ_INFO, () => [{ payload: words(16, 1, 77, VECTORS) }]) },
  ),
  survives(
    {
      name: 'io-fds-count-huge',
      section: 'VFIO_USER_DEVICE_GET_REGION_IO_FDS',
      sent: '2^32 - 1 sub-regions, and none of them',
    },
    { twist: twisting(VFIO_USER_DEVICE_GET_REGION_IO_FDS, () => [{ payload: words(16, 0, 0, MOST) }]) },
  ),
  survives(
    {
      name: 'io-fds-without-descriptors',
      section: 'VFIO_USER_DEVICE_GET_REGION_IO_FDS',
      sent: 'a sub-region whose fd_index is 63, without descriptors',
    },
    {
      twist: twisting(VFIO_USER_DEVICE_GET_REGION_IO_FDS, () => [
        { payload: words(56, 0, 0, 1, 0, 0, 4, 0, 63, 0, 0, 0, 0, 0) },
      ]),
    },
  ),
  survives(
    { name: 'region-read-no-data', section: 'VFIO_USER_REGION_READ', sent: 'a reply without its data' },
    { twist: twisting(VFIO_USER_REGION_READ, ({ payload }) => [{ payload: payload.slice(0, 16) }]) },
  ),
  survives(
    { name: 'region-read-more-data', section: 'VFIO_USER_REGION_READ', sent: 'a reply with 4096 bytes more' },
    {
      twist: twisting(VFIO_USER_REGION_READ, ({ payload }) => [
        { payload: Uint8Array.from([...payload, ...new Uint8Array(4096)]) },
      ]),
    },
  ),
  survives(
    {
      name: 'region-read-count-huge',
      section: 'VFIO_USER_REGION_READ',
      sent: 'a reply whose count is 2^32 - 1',
    },
    {
      twist: twisting(VFIO_USER_REGION_READ, ({ payload }) => {
        if (payload.length < 16) return undefined;
        const changed = payload.slice();
        view(changed).setUint32(12, MOST, true);
        return [{ payload: changed }];
      }),
    },
  ),
  survives(
    {
      name: 'region-read-all-ones',
      section: 'VFIO_USER_REGION_READ',
      sent: '0xff for each byte that is read',
    },
    {
      twist: twisting(VFIO_USER_REGION_READ, ({ payload }) => [{ payload: payload.slice().fill(0xff, 16) }]),
    },
  ),
];
