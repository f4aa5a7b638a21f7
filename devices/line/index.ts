/** Lines between the registers of a serial port and the host. */
export { ChannelLine } from './channel-line.js';
export { type OpenHostEnd, openHostEnd } from './host-end.js';
export { createLineBuffers, type HostEndNumbers, type LineBuffers } from './messages.js';
export type { SerialLine, SerialNotice, SerialTaskData } from './serial-task.js';
