/** The conformance suite of vfio-user: the rules of the protocol, played against any server. */
export { checkVfioUserServer, type ServerCheckOptions, VFIO_USER_SERVER_RULES } from './check-server.js';
export type { VfioUserConformance, VfioUserRuleResult, VfioUserVerdict } from './report.js';
export type { ServerAddress } from './server-rule.js';
