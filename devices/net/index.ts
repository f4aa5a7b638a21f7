export { GUEST_IP, HOST_IP, HOST_MAC } from './host.js';
export { passt, passtProgram, passtSocket } from './passt.js';
export { capturedPort, PcapFile } from './pcap.js';
export type {
  KernelQueue,
  KernelQueues,
  KernelRegion,
  NetBackend,
  NetCounters,
  NetOffloads,
  NetPair,
  NetPort,
} from './port.js';
export { RESPONDER_QUEUE_FRAMES, type ResponderCounters, responder } from './responder.js';
export { tap, tapOver } from './tap.js';
export type { TapSystem } from './tap-setup.js';
export { vhost, vhostOver } from './vhost.js';
export type { VhostSystem } from './vhost-net.js';
