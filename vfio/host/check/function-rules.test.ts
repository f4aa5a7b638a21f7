import { NIC } from '../testing/check-world.js';
import { FOLDER, nothing, testRules, UUID, VF, vf } from '../testing/rule-rows.js';
import { powerState, reset } from './reset-rules.js';
import { sriov, vfToken } from './sriov-rules.js';

testRules([vfToken, sriov, powerState, reset], {
  'vf-token': {
    ok: [
      {
        what: 'the host has the physical function',
        spoil: (world) => vf(world, 'igb'),
        text: /no token is needed: igb has its physical function/,
        evidence: [[`/sys/devices/pci0000:00/${VF}/physfn`, /^0000:02:00\.0$/]],
      },
    ],
    fails: [
      {
        what: 'VFIO has the physical function',
        spoil: (world) => vf(world, 'vfio-pci'),
        text: /^it needs the token of its physical function 0000:02:00\.0, which vfio-pci has$/,
        advice: /vf-token=UUID/,
      },
      {
        what: 'a token is given for nothing',
        spoil: (world) => vf(world, 'igb', { 'vf-token': UUID }),
        text: /a token is given, and igb of the host has its physical function/,
        advice: /leave vf-token out/,
      },
      {
        what: 'the token is no UUID',
        spoil: (world) => vf(world, 'vfio-pci', { 'vf-token': 'secret' }),
        text: /'secret' is not a UUID/,
      },
      {
        what: 'the kernel takes no token by cdev',
        spoil: (world) => vf(world, 'vfio-pci', { 'vf-token': UUID }, 'iommufd'),
        text: /no token can be given by cdev/,
        evidence: [['/proc/sys/kernel/osrelease', /6\.12/]],
        advice: /group/,
      },
    ],
    unknown: [
      {
        what: 'a token is given',
        spoil: (world) => vf(world, 'vfio-pci', { 'vf-token': UUID }),
        text: /only the kernel knows/,
      },
      {
        what: 'a physical function without VFs gets one',
        spoil: (world) => world.devices({ address: NIC, options: { 'vf-token': UUID } }),
        text: /the kernel’s to say/,
      },
    ],
  },
  'sr-iov': {
    ok: [
      {
        what: 'the physical function has no VFs',
        spoil: (world) => {
          world.host.file(world.nic('sriov_numvfs'), '0\n');
          world.host.file(world.nic('sriov_totalvfs'), '7\n');
        },
        text: /^it has no VFs$/,
        evidence: [[`${FOLDER}/sriov_numvfs`, /^0$/]],
      },
    ],
    warning: [
      {
        what: 'it has one',
        spoil: (world) => {
          world.host.file(world.nic('sriov_numvfs'), '1\n');
          world.host.file(world.nic('sriov_totalvfs'), '7\n');
          world.addFunction(VF, 31, 'igbvf');
          world.host.link(world.nic('virtfn0'), `../${VF}`);
        },
        text: /^it has 1 VF: 0000:02:10\.0 \(igbvf\)$/,
        commands: [`echo 0 > /sys/bus/pci/devices/${NIC}/sriov_numvfs`],
      },
    ],
  },
  'power-state': {
    ok: [
      {
        what: 'it answers',
        spoil: nothing,
        text: /^it answers, in D0$/,
        evidence: [
          [`${FOLDER}/power_state`, /^D0$/],
          [`${FOLDER}/d3cold_allowed`, /^1$/],
        ],
      },
      {
        what: 'it sleeps lightly',
        spoil: (world) => world.host.file(world.nic('power_state'), 'D3hot\n'),
        text: /^it answers, in D3hot$/,
      },
      {
        what: 'a VF shows no IDs',
        spoil: (world) => {
          vf(world, 'igb');
          world.host.file(`sys/devices/pci0000:00/${VF}/config`, new Uint8Array(64).fill(0xff));
        },
        text: /^it answers/,
      },
    ],
    warning: [
      {
        what: 'it has no power',
        spoil: (world) => world.host.file(world.nic('power_state'), 'D3cold\n'),
        text: /^it is in D3cold/,
        commands: [
          `echo 0 > /sys/bus/pci/devices/${NIC}/d3cold_allowed`,
          `echo on > /sys/bus/pci/devices/${NIC}/power/control`,
        ],
      },
    ],
    fails: [
      {
        what: 'it does not come back',
        spoil: (world) => {
          world.host.file(world.nic('power_state'), 'D3cold\n');
          world.host.file(world.nic('config'), new Uint8Array(256).fill(0xff));
        },
        text: /^it is in D3cold, and does not come back$/,
        evidence: [[`${FOLDER}/config`, /all ones/]],
        commands: [
          `echo 0 > /sys/bus/pci/devices/${NIC}/d3cold_allowed`,
          `echo on > /sys/bus/pci/devices/${NIC}/power/control`,
          `echo 1 > /sys/bus/pci/devices/${NIC}/remove`,
          'echo 1 > /sys/bus/pci/rescan',
        ],
        advice: /power cycle/,
      },
      {
        what: 'it is dead',
        spoil: (world) => world.host.file(world.nic('config'), new Uint8Array(64).fill(0xff)),
        text: /^it does not answer$/,
      },
    ],
    unknown: [
      {
        what: 'the kernel does not tell',
        spoil: (world) => world.host.remove(world.nic('power_state')),
        text: /does not show its power state/,
      },
    ],
  },
  reset: {
    ok: [
      {
        what: 'it has a function-level reset',
        spoil: nothing,
        text: /^it can be reset alone \(flr, bus\)$/,
        evidence: [[`${FOLDER}/reset_method`, /^flr bus$/]],
      },
      {
        what: 'its slot can be reset, and all of it is this machine’s',
        spoil: (world) => {
          world.addSlot('0000:00:1c.0', { '05:00.0': 'pm', '05:00.1': 'pm' });
          world.devices({ address: '05:00.0' }, { address: '05:00.1' });
        },
        text: /^its only own reset is pm; its slot or bus can be reset, with 1 more of this machine$/,
      },
    ],
    warning: [
      {
        what: 'a reset of its slot takes another function along',
        spoil: (world) => {
          world.addSlot('0000:00:1c.0', { '05:00.0': 'pm', '05:00.1': 'pm' });
          world.devices({ address: '05:00.0' });
        },
        text: /a reset of its slot or bus takes 0000:05:00\.1 along$/,
        evidence: [['/sys/devices/pci0000:00/0000:00:1c.0', /^0000:05:00\.0 0000:05:00\.1$/]],
        advice: /assign 0000:05:00\.1, too/,
      },
      {
        what: 'there is none, on a root bus',
        spoil: (world) => world.host.remove(world.nic('reset_method')),
        text: /^it has no reset of its own, and it is on a root bus/,
      },
    ],
    unknown: [
      {
        what: 'the kernel does not list them',
        spoil: (world) => {
          world.host.remove(world.nic('reset_method'));
          world.host.file(world.nic('reset'), '');
        },
        text: /does not list reset methods/,
      },
    ],
  },
});
