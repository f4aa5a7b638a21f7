import { type NetBackend, passt, passtSocket, responder, tap } from '../net/index.js';

/** The package's net back-ends; the first is the default. */
export const netBackends: readonly NetBackend[] = [responder, tap, passt, passtSocket];
