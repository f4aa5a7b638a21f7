/** vfio-user: serves devices of this process to other programs, and attaches devices that other programs serve. */
export { type UserProvider, userProvider } from './client/provider.js';
export { openForClient, VfioUserServer, type VfioUserServerOptions } from './server/server.js';
export type { ServedDevice } from './server/session.js';
