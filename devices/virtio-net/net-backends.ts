import { type NetBackend, passt, passtSocket, responder, tap } from '../net/index.js';

/** The net back-ends that come with the package; the first is the default. */
export const netBackends: readonly NetBackend[] = [responder, tap, passt, passtSocket];
