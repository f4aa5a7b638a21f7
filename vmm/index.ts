/**
 * The machine: configuration, running, what it reports.
 * @module
 */
export { SysError, type SysErrorInit } from '../sys/error.js';
export type { DoorName } from '../sys/ioctl-door.js';
export type { PathRule } from '../sys/landlock.js';
export type { CallCondition, CallRule } from '../sys/seccomp.js';
export { SYSTEM_CALLS, type SystemCallName } from '../sys/system-calls.js';
export {
  type DoorEvent,
  type ExitEvent,
  type GuestMisuseEvent,
  type MemoryEvent,
  type MutationEvent,
  type RegionEvent,
  TraceChannel,
  type TraceName,
  trace,
  type UnclaimedEvent,
  type VfioEvent,
  type VfioUserEvent,
} from '../sys/trace.js';
export type { ControlledMachine } from './api/routes.js';
export type { ServedInput } from './api/served-routes.js';
export { ApiServer } from './api/server.js';
export { ApiSocket } from './api/socket.js';
export type { ExitCounts } from './assign/exit-dispatcher.js';
export { GuestImageError } from './boot-elf.js';
export {
  type DeviceConfig,
  type DeviceConfigInput,
  parseConfig,
  parseDevices,
  parseSize,
  type VmConfig,
  type VmConfigInput,
} from './config.js';
export { ConfigError, type ConfigProblem } from './config-error.js';
export { type ConsoleOutput, ConsoleRing } from './console-ring.js';
export {
  DeviceServer,
  type DeviceServerObserver,
  type DeviceServerOptions,
  type ServedDeviceConfig,
  type ServeOptions,
  type VgpuVfsConfig,
  type VgpuVfsOptions,
} from './device-server.js';
export { type DeviceParent, type DeviceType, listDeviceParents, listDeviceTypes } from './device-types.js';
export type { PictureSource } from './display/frames.js';
export type { DisplayName } from './display/messages.js';
export { encodePng, type Picture, toPicture } from './display/png.js';
export type { ScreenSize } from './display/screen-size.js';
export type { Look } from './display/screens.js';
export { View, type ViewOptions, type Watched } from './display/view.js';
export { guestPicture } from './guest-picture.js';
export { InputFileError } from './input-file.js';
export type { DeviceState, MemoryRange, TimelineRecord } from './inspection.js';
export type { ReceiveOptions } from './machine-types.js';
export type { PageUse } from './mapped-pages.js';
export type { MoveOptions, MoveProgress, MoveResult } from './move/source.js';
export { exitStatus, type Outcome } from './outcome.js';
export type { Plugin } from './plugin.js';
export { PluginError } from './plugin-error.js';
export type { Counters, DeviceReport, Phase, RunReport } from './protocol.js';
export type { Sandbox } from './sandbox/enter.js';
export { enterSandbox, sandboxPolicy } from './sandbox/entrance.js';
export type { SandboxExtras, SandboxPolicy } from './sandbox/policy.js';
export type { SerialPortInfo } from './serial-links.js';
export { SerialTerminal, type SerialTerminalInput, type SerialTerminalOptions } from './serial-terminal.js';
export type { DeviceOptionChanges } from './snapshot/device-options.js';
export type { SnapshotInfo } from './snapshot/folder.js';
export type { RestoreChanges } from './snapshot/restore.js';
export type { SnapshotOptions } from './snapshot/unplugged-save.js';
export type { VgpuCardInput } from './vgpu-cards.js';
export {
  type DetachOptions,
  type MachineInfo,
  type MachineState,
  VirtualMachine,
  type VmObserver,
} from './virtual-machine.js';
