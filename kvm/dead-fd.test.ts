import { expect, test } from 'vitest';
import { gpa, hva } from '../sys/address.js';
import { Fd } from '../sys/fd.js';
import { Mapping } from '../sys/mapping.js';
import { registerCoalesced } from './coalesced.js';
import { KvmDevice } from './device.js';
import { GsiRouting } from './gsi-routing.js';
import { MemorySlots } from './memory-slots.js';
import { Kvm } from './system.js';
import * as uapi from './uapi.js';
import * as state from './uapi-vcpu.js';
import { Vcpu } from './vcpu.js';
import { Vm } from './vm.js';

// Every wrapper must name the ioctl, its target and the errno: checked with an unused fd number.
const DEAD = 9_999;
const zeroed = <T>(layout: { decode(bytes: Uint8Array): T; readonly size: number }): T =>
  layout.decode(new Uint8Array(layout.size));

const kvm = Kvm.adopt(Fd.adopt(DEAD, '/dev/kvm'));
test.each<[string, () => unknown]>([
  ['KVM_GET_API_VERSION', () => kvm.getApiVersion()],
  ['KVM_CHECK_EXTENSION', () => kvm.checkExtension('KVM_CAP_IRQCHIP')],
  ['KVM_CHECK_EXTENSION', () => kvm.requireExtensions(['KVM_CAP_IRQCHIP'])],
  ['KVM_GET_VCPU_MMAP_SIZE', () => kvm.getVcpuMmapSize()],
  ['KVM_GET_SUPPORTED_CPUID', () => kvm.getSupportedCpuid()],
  ['KVM_GET_EMULATED_CPUID', () => kvm.getEmulatedCpuid()],
  ['KVM_GET_MSR_INDEX_LIST', () => kvm.getMsrIndexList()],
  ['KVM_GET_MSR_FEATURE_INDEX_LIST', () => kvm.getMsrFeatureIndexList()],
  ['KVM_GET_MSRS', () => kvm.getFeatureMsrs([0x10])],
  ['KVM_CREATE_VM', () => kvm.createVm()],
])('%s on a dead descriptor reports EBADF', (name, call) => {
  expect(call).toThrowError(new RegExp(`^${name} on /dev/kvm: EBADF`));
});

const vm = Vm.adopt(Fd.adopt(DEAD, 'vm'), 12_288);
const bytes = 4096n;
test.each<[string, () => unknown]>([
  ['KVM_CHECK_EXTENSION', () => vm.checkExtension('KVM_CAP_IRQCHIP')],
  ['KVM_ENABLE_CAP', () => vm.enableCap('KVM_CAP_X2APIC_API', 1n)],
  ['KVM_ENABLE_CAP', () => vm.enableSplitIrqchip()],
  ['KVM_CHECK_EXTENSION', () => vm.enableDirtyRings(4096)],
  ['KVM_SET_USER_MEMORY_REGION', () => new MemorySlots(vm).add(gpa(0n), hva(0x1000n), bytes)],
  ['KVM_GET_DIRTY_LOG', () => vm.getDirtyLog(0, bytes)],
  ['KVM_CLEAR_DIRTY_LOG', () => vm.clearDirtyLog(0, 0n, 64, new Uint8Array(8))],
  ['KVM_SET_TSS_ADDR', () => vm.setTssAddr(gpa(0xfffb_d000n))],
  ['KVM_SET_IDENTITY_MAP_ADDR', () => vm.setIdentityMapAddr(gpa(0xfffb_c000n))],
  ['KVM_CREATE_IRQCHIP', () => vm.createIrqchip()],
  ['KVM_GET_IRQCHIP', () => vm.getIoapic()],
  ['KVM_SET_IRQCHIP', () => vm.setIoapic(zeroed(uapi.IoapicState))],
  ['KVM_GET_IRQCHIP', () => vm.getPic(0)],
  ['KVM_SET_IRQCHIP', () => vm.setPic(1, zeroed(uapi.PicState))],
  ['KVM_CREATE_PIT2', () => vm.createPit2()],
  ['KVM_GET_PIT2', () => vm.getPit2()],
  ['KVM_SET_PIT2', () => vm.setPit2(zeroed(uapi.PitState2))],
  ['KVM_IRQ_LINE', () => vm.irqLine(5, true)],
  ['KVM_SIGNAL_MSI', () => vm.signalMsi({ address: 0xfee0_0000n, data: 0x40 })],
  ['KVM_SET_GSI_ROUTING', () => GsiRouting.create(vm, { isIoapicRouted: true, isPicRouted: true })],
  ['KVM_GET_CLOCK', () => vm.getClock()],
  ['KVM_SET_CLOCK', () => vm.setClock({ clock: 1n })],
  ['KVM_CREATE_DEVICE', () => vm.createDevice(uapi.KVM_DEV_TYPE_VFIO)],
  ['KVM_CREATE_DEVICE', () => vm.hasDevice(uapi.KVM_DEV_TYPE_VFIO)],
  ['KVM_CREATE_VCPU', () => vm.createVcpu(0)],
  ['KVM_REGISTER_COALESCED_MMIO', () => registerCoalesced(vm, { address: 0xd000_0000n, bytes: 8 })],
])('%s on a dead VM descriptor reports EBADF', (name, call) => {
  expect(call).toThrowError(new RegExp(`^${name} on (vm|vcpu).*: EBADF`));
});

test.each<[string, (fd: Fd) => unknown]>([
  ['KVM_IRQFD', (fd) => vm.assignIrqfd({ fd, gsi: 5 })],
  ['KVM_IRQFD', (fd) => vm.assignIrqfd({ fd, gsi: 5, resampleFd: fd })],
  ['KVM_IOEVENTFD', (fd) => vm.assignIoeventfd({ fd, address: 0xd000_0000n, length: 4 })],
])('%s on a dead VM descriptor names the eventfd', (name, call) => {
  using fd = Fd.eventfd('doorbell');
  expect(() => call(fd)).toThrowError(new RegExp(`^${name} on doorbell, .*: EBADF`));
});

test.each<[string, (vcpu: Vcpu) => unknown]>([
  ['KVM_RUN', (vcpu) => vcpu.run()],
  ['KVM_RUN', (vcpu) => vcpu.completeAccess()],
  ['KVM_GET_REGS', (vcpu) => vcpu.getRegs()],
  ['KVM_SET_REGS', (vcpu) => vcpu.setRegs({})],
  ['KVM_GET_SREGS', (vcpu) => vcpu.getSregs()],
  ['KVM_SET_SREGS', (vcpu) => vcpu.setSregs(zeroed(state.Sregs))],
  ['KVM_GET_SREGS2', (vcpu) => vcpu.getSregs2()],
  ['KVM_SET_SREGS2', (vcpu) => vcpu.setSregs2(zeroed(state.Sregs2))],
  ['KVM_GET_CPUID2', (vcpu) => vcpu.getCpuid2()],
  ['KVM_SET_CPUID2', (vcpu) => vcpu.setCpuid2([])],
  ['KVM_GET_MSRS', (vcpu) => vcpu.getMsrs([0x10])],
  ['KVM_SET_MSRS', (vcpu) => vcpu.setMsrs([{ index: 0x10, data: 0n }])],
  ['KVM_GET_LAPIC', (vcpu) => vcpu.getLapic()],
  ['KVM_SET_LAPIC', (vcpu) => vcpu.setLapic(new Uint8Array(1024))],
  ['KVM_GET_FPU', (vcpu) => vcpu.getFpu()],
  ['KVM_SET_FPU', (vcpu) => vcpu.setFpu(zeroed(state.Fpu))],
  ['KVM_GET_XSAVE', (vcpu) => vcpu.getXsave()],
  ['KVM_SET_XSAVE', (vcpu) => vcpu.setXsave(new Uint8Array(4096))],
  ['KVM_GET_XCRS', (vcpu) => vcpu.getXcrs()],
  ['KVM_SET_XCRS', (vcpu) => vcpu.setXcrs(new Map())],
  ['KVM_GET_MP_STATE', (vcpu) => vcpu.getMpState()],
  ['KVM_SET_MP_STATE', (vcpu) => vcpu.setMpState(0)],
  ['KVM_GET_VCPU_EVENTS', (vcpu) => vcpu.getVcpuEvents()],
  ['KVM_SET_VCPU_EVENTS', (vcpu) => vcpu.setVcpuEvents(zeroed(state.VcpuEvents))],
  ['KVM_GET_DEBUGREGS', (vcpu) => vcpu.getDebugRegs()],
  ['KVM_SET_DEBUGREGS', (vcpu) => vcpu.setDebugRegs(zeroed(state.DebugRegs))],
  ['KVM_GET_TSC_KHZ', (vcpu) => vcpu.getTscKhz()],
  ['KVM_SET_TSC_KHZ', (vcpu) => vcpu.setTscKhz(1)],
  ['KVM_SET_SIGNAL_MASK', (vcpu) => vcpu.setSignalMask(0n)],
  ['KVM_SET_SIGNAL_MASK', (vcpu) => vcpu.setSignalMask(undefined)],
  ['KVM_NMI', (vcpu) => vcpu.nmi()],
  ['KVM_INTERRUPT', (vcpu) => vcpu.interrupt(0x40)],
  ['KVM_TRANSLATE', (vcpu) => vcpu.translate(0n)],
  ['KVM_SET_GUEST_DEBUG', (vcpu) => vcpu.setGuestDebug(0)],
  ['KVM_KVMCLOCK_CTRL', (vcpu) => vcpu.kvmclockCtrl()],
])('%s on a dead vCPU descriptor reports EBADF', (name, call) => {
  using mapping = Mapping.anonymous(12_288);
  const vcpu = Vcpu.adopt({ fd: Fd.adopt(DEAD, 'vcpu 7'), mapping, xsaveBytes: 4096 });
  expect(() => call(vcpu)).toThrowError(new RegExp(`^${name} on vcpu 7: EBADF`));
});

test.each([
  { xsaveBytes: 4096, request: 'KVM_GET_XSAVE' },
  { xsaveBytes: 4097, request: 'KVM_GET_XSAVE2' },
  { xsaveBytes: 11_008, request: 'KVM_GET_XSAVE2' },
])('an XSAVE area of $xsaveBytes bytes is read with $request', ({ xsaveBytes, request }) => {
  using mapping = Mapping.anonymous(12_288);
  const vcpu = Vcpu.adopt({ fd: Fd.adopt(DEAD, 'vcpu 7'), mapping, xsaveBytes });
  expect(() => vcpu.getXsave()).toThrowError(new RegExp(`^${request} on vcpu 7: EBADF`));
  expect(() => vcpu.setXsave(new Uint8Array(xsaveBytes - 1))).toThrowError(RangeError);
  expect(() => vcpu.setXsave(new Uint8Array(xsaveBytes))).toThrowError(/^KVM_SET_XSAVE on vcpu 7: EBADF/);
});

const device = KvmDevice.adopt(Fd.adopt(DEAD, 'kvm-vfio'));
test.each<[string, () => unknown]>([
  ['KVM_HAS_DEVICE_ATTR', () => device.hasAttr(1, 1)],
  ['KVM_SET_DEVICE_ATTR', () => device.setAttr(1, 1, new Uint8Array(4))],
  ['KVM_GET_DEVICE_ATTR', () => device.getAttr(1, 1, 4)],
])('%s on a dead device descriptor reports EBADF', (name, call) => {
  expect(call).toThrowError(new RegExp(`^${name} on kvm-vfio: EBADF`));
});
