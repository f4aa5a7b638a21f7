/** For a test: a program that puts itself into a sandbox, tries to get out of it, and runs a machine. Prints JSON. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { enterSandbox, VirtualMachine } from 'tsvisor';

const [, , secret, allowed] = process.argv;
const config = { memory: '32M', cmdline: 'halt-test', sandbox: { mode: 'on', read: [allowed] } };
const extras = { read: [new URL('.', import.meta.url).pathname] };

async function resultOf(what) {
  try {
    await what();
    return 'done';
  } catch (error) {
    return error.code;
  }
}
function program() {
  const { error } = spawnSync(process.execPath, ['--version']);
  if (error !== undefined) throw error;
}
async function port() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  server.close();
}

const sandbox = await enterSandbox(config, extras);
const before = await resultOf(program);
sandbox.seal();
const sealed = {
  secret: await resultOf(() => readFileSync(secret)),
  allowed: await resultOf(() => readFileSync(allowed)),
  program: await resultOf(program),
  port: await resultOf(port),
};
const { outcome } = await VirtualMachine.start(config).finished;
const { kind, status } = outcome;
console.log(JSON.stringify({ pid: process.pid, program: before, sealed, outcome: kind, status }));
