/** Rules that each message of a client keeps. */
import type { ClientRule } from './client-rule.js';
import { observes } from './client-rule.js';

const INFO = 'VFIO_USER_DEVICE_GET_REGION_INFO';
const IRQS = 'VFIO_USER_DEVICE_SET_IRQS';
const MAP = 'VFIO_USER_DMA_MAP';
const VERSION = 'VFIO_USER_VERSION';

export const CLIENT_MESSAGE_RULES: readonly ClientRule[] = [
  observes({
    name: 'version-first',
    section: VERSION,
    sent: 'nothing',
    expected: 'VFIO_USER_VERSION as the first message',
  }),
  observes({ name: 'version-once', section: VERSION, expected: 'one VFIO_USER_VERSION', isAbsence: true }),
  observes({ name: 'version-major', section: VERSION, sent: 'nothing', expected: 'major version 0' }),
  observes({
    name: 'version-data',
    section: VERSION,
    sent: 'nothing',
    expected: 'no version data, or a JSON object that ends with a zero byte',
  }),
  observes({
    name: 'version-capabilities',
    section: VERSION,
    sent: 'nothing',
    expected: 'capabilities of the types that the specification has',
  }),
  observes({
    name: 'command-type',
    section: 'Header',
    expected: 'messages whose type is Command, if they are no replies to the server',
    isAbsence: true,
  }),
  observes({
    name: 'command-flags',
    section: 'Header',
    expected: 'commands without the Error bit and bits that are not defined',
  }),
  observes({
    name: 'command-known',
    section: 'Commands',
    expected: 'commands that exist and are a client’s',
  }),
  observes({
    name: 'payload-size',
    section: 'Message sizes',
    expected: 'payloads that have the whole structure',
  }),
  observes({ name: 'argsz', section: 'Message sizes', expected: 'argsz of the structure’s size at least' }),
  observes({
    name: 'descriptors',
    section: 'Socket',
    expected: 'descriptors with VFIO_USER_DMA_MAP and VFIO_USER_DEVICE_SET_IRQS only',
  }),
  observes({
    name: 'max-msg-fds',
    section: VERSION,
    sent: 'max_msg_fds 8, and 16 interrupts',
    expected: 'messages with 8 descriptors at most',
  }),
  observes(
    {
      name: 'max-msg-fds-1',
      section: VERSION,
      sent: 'max_msg_fds 1',
      expected: 'messages with one descriptor at most',
    },
    { traits: { capabilities: { max_msg_fds: 1 } } },
  ),
  observes(
    {
      name: 'max-msg-fds-absent',
      section: VERSION,
      sent: 'capabilities without max_msg_fds, which then is 1',
      expected: 'messages with one descriptor at most',
    },
    { traits: { capabilities: { max_msg_fds: undefined } } },
  ),
  observes({ name: 'region-info-index', section: INFO, expected: 'indexes below num_regions' }),
  observes({
    name: 'irq-info-index',
    section: 'VFIO_USER_DEVICE_GET_IRQ_INFO',
    expected: 'indexes below num_irqs',
  }),
  observes({
    name: 'region-access-inside',
    section: 'VFIO_USER_REGION_READ',
    expected: 'accesses inside of their regions',
  }),
  observes({
    name: 'region-write-data',
    section: 'VFIO_USER_REGION_WRITE',
    expected: 'as many bytes of data as count',
  }),
  observes({
    name: 'max-data-xfer-size',
    section: VERSION,
    sent: 'max_data_xfer_size 1048576',
    expected: 'accesses of that many bytes at most',
  }),
  observes(
    {
      name: 'max-data-xfer-size-128',
      section: VERSION,
      sent: 'max_data_xfer_size 128',
      expected: 'accesses of 128 bytes at most',
    },
    { traits: { capabilities: { max_data_xfer_size: 128 } } },
  ),
  observes({
    name: 'write-multi-unasked',
    section: 'VFIO_USER_REGION_WRITE_MULTI',
    sent: 'capabilities without write_multiple',
    expected: 'no VFIO_USER_REGION_WRITE_MULTI',
    isAbsence: true,
  }),
  observes(
    {
      name: 'reset-right',
      section: 'VFIO_USER_DEVICE_GET_INFO',
      sent: 'a device without VFIO_DEVICE_FLAGS_RESET',
      expected: 'no VFIO_USER_DEVICE_RESET',
      isAbsence: true,
    },
    { traits: { hasReset: false } },
  ),
  observes({
    name: 'set-irqs-flags',
    section: IRQS,
    expected: 'one data flag and one action flag',
  }),
  observes({ name: 'set-irqs-range', section: IRQS, expected: 'interrupts that the device has' }),
  observes({
    name: 'set-irqs-descriptors',
    section: IRQS,
    expected: 'no descriptors, or an eventfd for each interrupt of the range',
  }),
  observes({
    name: 'set-irqs-bools',
    section: IRQS,
    expected: 'a byte for each interrupt of the range, with VFIO_IRQ_SET_DATA_BOOL',
  }),
  observes({ name: 'dma-map-flags', section: MAP, expected: 'no flags but those of reading and writing' }),
  observes({ name: 'dma-map-range', section: MAP, expected: 'ranges of some bytes that do not wrap' }),
  observes({ name: 'dma-map-pages', section: MAP, sent: 'pgsizes 4096', expected: 'ranges of whole pages' }),
  observes(
    {
      name: 'pgsizes-64k',
      section: VERSION,
      sent: 'pgsizes 65536',
      expected: 'ranges of whole pages of 64 KiB, or no maps',
    },
    { traits: { capabilities: { pgsizes: 65_536 } } },
  ),
  observes({ name: 'dma-map-overlap', section: MAP, expected: 'ranges beside each other' }),
  observes({
    name: 'dma-map-descriptor',
    section: MAP,
    expected: 'one descriptor, of a file that has the whole map',
  }),
  observes({
    name: 'max-dma-maps',
    section: VERSION,
    sent: 'max_dma_maps 1024',
    expected: 'that many maps at most at a time',
  }),
  observes(
    {
      name: 'max-dma-maps-1',
      section: VERSION,
      sent: 'max_dma_maps 1',
      expected: 'one map at most at a time',
    },
    { traits: { capabilities: { max_dma_maps: 1 } } },
  ),
  observes({
    name: 'dma-unmap',
    section: 'VFIO_USER_DMA_UNMAP',
    expected: 'unmaps of ranges as they were mapped',
  }),
];
