import { expect, test } from 'vitest';
import { checkHeaders } from '../../sys/testing/header-check.js';
import * as features from '../feature.js';
import * as seam from '../uapi.js';
import * as structs from './structs.js';
import * as structsFeature from './structs-feature.js';
import * as iommufd from './structs-iommufd.js';
import * as type1 from './structs-type1.js';

test('every structure, request and constant of linux/vfio.h is as the C compiler reads it', ({ skip }) => {
  const check = checkHeaders({
    headers: ['linux/vfio.h'],
    tables: [seam, features, structs, structsFeature, type1],
    constantsSince: {
      VFIO_DEVICE_FEATURE_DMA_LOGGING_START: '6.1',
      VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: '6.1',
      VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: '6.1',
      VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: '6.2',
      VFIO_DEVICE_STATE_PRE_COPY: '6.2',
      VFIO_DEVICE_STATE_PRE_COPY_P2P: '6.2',
      VFIO_MIGRATION_PRE_COPY: '6.2',
      VFIO_PCI_HOT_RESET_FLAG_DEV_ID: '6.6',
      VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED: '6.6',
      VFIO_PCI_DEVID_OWNED: '6.6',
      VFIO_PCI_DEVID_NOT_OWNED: '6.6',
      VFIO_DEVICE_BIND_FLAG_TOKEN: '6.18',
    },
  });
  if (check.unavailable !== undefined) skip(check.unavailable);
  for (const row of check.newer) console.info(`not compared: ${row}`);
  expect(check.differences).toEqual([]);
  expect(check.compared).toBeGreaterThan(150);
});

test('every structure, request and constant of linux/iommufd.h is as the C compiler reads it', ({ skip }) => {
  const check = checkHeaders({ headers: ['linux/iommufd.h'], tables: [iommufd] });
  if (check.unavailable !== undefined) skip(check.unavailable);
  expect(check.differences).toEqual([]);
  expect(check.compared).toBeGreaterThan(50);
});
