/** vfio-user: devices of this process for other programs, and devices of other programs for a guest of this one. */
export { userProvider } from './client/provider.js';
export { openForClient, VfioUserServer, type VfioUserServerOptions } from './server/server.js';
export type { ServedDevice } from './server/session.js';
