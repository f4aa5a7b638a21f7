/** The conformance suite of vfio-user: the rules of the protocol, played against any server. */
export { type ClientCheckOptions, checkVfioUserClient, VFIO_USER_CLIENT_RULES } from './check-client.js';
export { checkVfioUserServer, type ServerCheckOptions, VFIO_USER_SERVER_RULES } from './check-server.js';
export type { AttachVfioUserClient, VfioUserClientUnderTest } from './client-play.js';
export type { VfioUserConformance, VfioUserRuleResult, VfioUserVerdict } from './report.js';
export type { ServerAddress } from './server-rule.js';
