import { type NetBackend, passt, passtSocket, responder, tap, vhost } from '../net/index.js';

/** The package's net back-ends; the first is the default. */
export const netBackends: readonly NetBackend[] = [responder, tap, vhost, passt, passtSocket];
