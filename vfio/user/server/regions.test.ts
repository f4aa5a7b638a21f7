import { writeSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { errno } from '../../../sys/errno.js';
import * as libc from '../../../sys/libc.js';
import { Mapping } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE } from '../../uapi.js';
import { decodeRegionInfo, regionInfoRequest } from '../message.js';
import * as protocol from '../protocol.js';
import { hostCard, MEMORY, MEMORY_BYTES } from '../testing/card.js';
import { RawClient } from '../testing/raw-client.js';
import { ServedRegions } from './regions.js';

const F_GETFL = 3;
const O_ACCMODE = 3;
const O_RDONLY = 0;
const O_RDWR = 2;

let scope: Scope;
beforeEach(() => {
  scope = new Scope();
});
afterEach(() => scope[Symbol.dispose]());

/** Takes the right to write its mappable memory from a card. */
function protect(card: RawClient['card']): void {
  const getRegionInfo = card.getRegionInfo.bind(card);
  card.getRegionInfo = (index) => {
    const info = getRegionInfo(index);
    return index === MEMORY ? { ...info, flags: info.flags & ~VFIO_REGION_INFO_FLAG_WRITE } : info;
  };
}

/** The region as a client gets it. */
function ask(client: RawClient) {
  client.negotiate();
  const command = protocol.VFIO_USER_DEVICE_GET_REGION_INFO;
  const { payload, fds } = client.ask(command, regionInfoRequest(4096, MEMORY));
  const [fd] = fds;
  if (fd === undefined) throw new RangeError('no descriptor');
  return { info: decodeRegionInfo(command, payload), fd: scope.own(fd) };
}

test('a region for reading only comes with a descriptor that reads the device’s memory, and neither writes nor maps it for writing', () => {
  const client = scope.own(new RawClient());
  protect(client.card);
  const { info, fd } = ask(client);
  expect(info.flags & (VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE)).toBe(
    VFIO_REGION_INFO_FLAG_READ,
  );
  expect(libc.fcntl(fd.number, F_GETFL, 0) & O_ACCMODE).toBe(O_RDONLY);
  expect(() => writeSync(fd.number, Uint8Array.of(1), 0, 1, 0)).toThrowError(/EBADF/);
  expect(() => Mapping.file(fd, MEMORY_BYTES)).toThrowError(/^mmap on .*: EACCES/);
  const mapped = scope.own(Mapping.file(fd, 4096, { offset: info.fdOffset, isWritable: false }));
  client.card.write(MEMORY, 5, Uint8Array.of(0xcd));
  expect(mapped.view.slice(5, 1)[0]).toBe(0xcd);
});

test('a region for reading and writing comes with a descriptor that does both', () => {
  const { fd } = ask(scope.own(new RawClient()));
  expect(libc.fcntl(fd.number, F_GETFL, 0) & O_ACCMODE).toBe(O_RDWR);
});

test('the descriptor for reading only is opened once, whoever asks, and closed with the session', () => {
  const host = scope.own(hostCard());
  protect(host.card);
  const { device } = scope.own(host.open());
  const regions = new ServedRegions(device);
  const { fd = -1 } = regions.region(MEMORY);
  expect(libc.fcntl(fd, F_GETFL, 0) & O_ACCMODE).toBe(O_RDONLY);
  expect(regions.region(MEMORY).fd).toBe(fd);
  regions[Symbol.dispose]();
  expect(libc.fcntl(fd, F_GETFL, 0)).toBe(-errno.EBADF);
});
