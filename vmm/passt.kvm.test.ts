/** The built-in guest on the host's network through passt, in network and process namespaces of its own. */
import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { passtProblem } from '../devices/net/testing/passt.js';
import { tsvisor } from './testing/machines.js';

const problem =
  passtProblem() ??
  (process.getuid?.() === 0 ? undefined : 'needs root, for namespaces') ??
  (spawnSync('ip', ['-V']).status === 0 ? undefined : 'needs ip');
const why = problem === undefined ? '' : ` (skipped: ${problem})`;

/** Echoes what comes to port 7, by TCP and UDP, on every address. */
const ECHO = `
  const { createServer } = await import('node:net');
  const { createSocket } = await import('node:dgram');
  createServer((socket) => socket.on('error', () => {}).pipe(socket)).listen(7, '0.0.0.0');
  const udp = createSocket('udp4');
  udp.on('message', (bytes, { port, address }) => udp.send(bytes, port, address));
  udp.bind(7, '0.0.0.0', () => console.log('ready'));`;

/** A network of 192.168.77.0/24, whose gateway's address is this host's, too. What is left of passt is printed. */
const NETWORK = `
  ip link set lo up
  ip tuntap add tap0 mode tap
  ip addr add 192.168.77.2/24 dev tap0
  ip link set tap0 up
  ip route add default via 192.168.77.1
  ip addr add 192.168.77.1/32 dev lo
  echo "0 2147483647" > /proc/sys/net/ipv4/ping_group_range
  passts() { for p in /proc/[0-9]*; do case $(cat $p/comm 2>/dev/null) in passt*) echo \${p#/proc/} ;; esac; done; }`;

/** @param meanwhile a command that runs when the guest has found its gateway */
function run(args: readonly string[], meanwhile = 'true'): ReturnType<typeof tsvisor> {
  const script = `${NETWORK}
    folder=$(mktemp -d)
    "$1" --input-type=module -e "$ECHO" > $folder/echo & echo=$!
    until grep -qs ready $folder/echo; do sleep 0.05; done
    "$@" > $folder/said & tsvisor=$!
    until grep -qs 'ARP: gateway' $folder/said || ! kill -0 $tsvisor 2>/dev/null; do sleep 0.05; done
    ${meanwhile}
    wait $tsvisor; status=$?
    kill $echo; cat $folder/said; rm -r $folder
    echo "passts left: $(passts)"
    exit $status`;
  const namespaces = ['unshare', '--net', '--pid', '--fork', '--mount-proc', 'sh', '-c', script, 'sh'];
  return tsvisor(['run', ...args], ['env', `ECHO=${ECHO}`, ...namespaces]);
}

test.skipIf(problem !== undefined)(
  `the guest gets an address by DHCP, pings, and reaches the host's services by UDP and TCP${why}`,
  () => {
    const words = 'pings=5 udp=200,1024,16 tcp=300000';
    const { stdout, stderr, status } = run(['--net', 'passt:no-map-gw', '--append', words]);
    expect(stderr).toBe('');
    expect(stdout).toMatch(/DHCP: 192\.168\.77\.2, gateway 192\.168\.77\.1/);
    expect(stdout).toMatch(/5\/5 replies/);
    expect(stdout).toMatch(/tcp: 300000 of 300000 bytes echoed/);
    expect(stdout).toMatch(/passts left: $/m);
    expect(status).toBe(0);
  },
);

test.skipIf(problem !== undefined)(
  `a passt that is killed is told once, takes the link down, and the guest lives${why}`,
  () => {
    const args = ['--net', 'passt', '--append', 'spin pings=0 udp=100000,1024,16'];
    const { stdout, stderr, status } = run(args, 'kill -9 $(passts)');
    expect(stderr).toBe('');
    expect(stdout).toMatch(/its link is down: SysError: net on passt \(pid \d+\): ECONNRESET/);
    expect(stdout.match(/its link is down/g)).toHaveLength(1);
    expect(stdout).toMatch(/hint: it has ended \(signal 9\)/);
    expect(stdout).toMatch(/verdict: failed/);
    expect(stdout).toMatch(/passts left: $/m);
    expect(status).toBeLessThan(64);
  },
);

test('passt without the program is refused, with the way to get it', () => {
  const { stdout, stderr, status } = tsvisor(['run', '--net', 'passt'], ['env', 'PATH=/nowhere']);
  expect(stderr).toMatch(/execve on passt: ENOENT\n {2}hint: install it \(apt install passt\)/);
  expect(stdout).not.toMatch(/guest \|/);
  expect(status).toBe(69);
});
