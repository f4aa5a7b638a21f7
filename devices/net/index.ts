export { GUEST_IP, HOST_IP, HOST_MAC } from './host.js';
export { passt, passtProgram, passtSocket } from './passt.js';
export type { NetBackend, NetCounters, NetOffloads, NetPort } from './port.js';
export { RESPONDER_QUEUE_FRAMES, type ResponderCounters, responder } from './responder.js';
export { tap, tapOver } from './tap.js';
export type { TapSystem } from './tap-setup.js';
