import { GIB, NIC } from '../testing/check-world.js';
import { AUDIO, bindAll, byIommufd, nothing, testRules, unbound } from '../testing/rule-rows.js';
import { GROUP_RULES } from './rules.js';

testRules(GROUP_RULES, {
  viability: {
    ok: [
      { what: 'the group has one member', spoil: nothing, text: /^group 26 is viable$/ },
      {
        what: 'the other member has no driver',
        spoil: (world) => world.host.addPci({ address: AUDIO, group: 26 }),
        text: /^group 26 is viable$/,
      },
      {
        what: 'option bind takes the only one that blocks',
        spoil: (world) => {
          unbound(world, 'e1000e');
          world.devices({ address: NIC, options: { bind: 'vfio-pci' } });
        },
        text: /^group 26 is viable$/,
      },
      {
        what: 'option bind takes all that block',
        spoil: (world) => {
          unbound(world, 'e1000e');
          world.host.addPci({ address: AUDIO, driver: 'snd_hda_intel', group: 26 });
          const options = { bind: 'vfio-pci' };
          world.devices({ address: NIC, options }, { address: AUDIO, options });
        },
        text: /^group 26 is viable$/,
      },
    ],
    fails: [
      {
        what: 'option bind takes only one of two that block',
        spoil: (world) => {
          unbound(world, 'e1000e');
          world.host.addPci({ address: AUDIO, driver: 'snd_hda_intel', group: 26 });
          world.devices({ address: NIC, options: { bind: 'vfio-pci' } });
        },
        text: /not viable while the host uses 0000:01:00\.1 \(snd_hda_intel\)$/,
        commands: bindAll(AUDIO, 'snd_hda_intel'),
        advice: /tsvisor bind 0000:01:00\.1/,
      },
      {
        what: 'the host uses another member',
        spoil: (world) => world.host.addPci({ address: AUDIO, driver: 'snd_hda_intel', group: 26 }),
        text: /^group 26 is not viable while the host uses 0000:01:00\.1 \(snd_hda_intel\)$/,
        evidence: [[`/sys/devices/pci0000:00/${AUDIO}/driver`, /^snd_hda_intel$/]],
        commands: bindAll(AUDIO, 'snd_hda_intel'),
        advice: /tsvisor bind 0000:01:00\.1/,
      },
    ],
  },
  'direct-mapping': {
    fails: [
      {
        what: 'the firmware wants its own map',
        spoil: ({ host }) =>
          host.file(
            'sys/kernel/iommu_groups/26/reserved_regions',
            '0x00000000bdf6f000 0x00000000bdf7efff direct\n0x00000000fee00000 0x00000000feefffff msi\n',
          ),
        text: /insists on its own DMA to 0xbdf6f000-0xbdf7efff \(direct\)$/,
        evidence: [['/sys/kernel/iommu_groups/26/reserved_regions', /direct/]],
        commands: [],
        advice: /firmware/,
      },
    ],
  },
  'reserved-ranges': {
    ok: [
      {
        what: 'the guest ends below',
        spoil: nothing,
        text: /avoids all reserved addresses/,
        evidence: [['/sys/kernel/iommu_groups/26/reserved_regions', /msi/]],
      },
      {
        what: 'a range may be mapped otherwise',
        spoil: ({ host }) =>
          host.file('sys/kernel/iommu_groups/26/reserved_regions', '0x0 0xffffff direct-relaxable\n'),
        text: /^no addresses are reserved$/,
      },
      {
        what: 'a range begins where the guest ends',
        spoil: ({ host }) =>
          host.file('sys/kernel/iommu_groups/26/reserved_regions', '0x40000000 0x400fffff reserved\n'),
        text: /avoids all/,
      },
    ],
    fails: [
      {
        what: 'a range begins with the guest’s last byte',
        spoil: ({ host }) =>
          host.file('sys/kernel/iommu_groups/26/reserved_regions', '0x3fffffff 0x400fffff reserved\n'),
        text: /covers reserved addresses: 0x3fffffff-0x400fffff \(reserved\)$/,
        commands: [],
        advice: /ends below 0x3fffffff/,
      },
      {
        what: 'the guest has memory at the MSI window',
        spoil: (world) => {
          world.request = { ...world.request, memory: [{ base: 0n, bytes: 4n * GIB }] };
        },
        text: /covers reserved addresses: 0xfee00000-0xfeefffff \(msi\)$/,
      },
    ],
    unknown: [
      {
        what: 'the guest’s size is not known',
        spoil: (world) => {
          world.request = { ...world.request, memory: undefined };
        },
        text: /depends on its size/,
        advice: /--memory SIZE/,
      },
    ],
  },
  'in-use': {
    ok: [{ what: 'nobody has it', spoil: nothing, text: /^nobody uses group 26$/ }],
    warning: [
      {
        what: 'this process has it',
        spoil: (world) => world.host.addProcess(process.pid, 'node', ['dev/vfio/26']),
        text: /^this process itself has group 26$/,
        commands: [],
      },
    ],
    fails: [
      {
        what: 'a process has the group',
        spoil: (world) => world.host.addProcess(4711, 'qemu-system-x86', ['dev/vfio/26']),
        text: /^group 26 is in use: held by process 4711 \(qemu-system-x86\)$/,
        evidence: [['/dev/vfio/26', /4711/]],
        commands: ['kill 4711'],
        advice: /ends that process/,
      },
      {
        what: 'a process has the cdev of another member',
        spoil: (world) => {
          world.addFunction(AUDIO, 26);
          world.host.addProcess(4712, 'node', ['dev/vfio/devices/vfio011']);
        },
        text: /held by process 4712 \(node\)$/,
        commands: ['kill 4712'],
      },
    ],
    unknown: [
      {
        what: 'what a process has open does not show',
        spoil: (world) => world.host.file('proc/1/fd', 'no folder, as one that may not be read'),
        text: /^nobody is seen to use group 26$/,
      },
    ],
  },
  nodes: {
    ok: [
      {
        what: 'they are there',
        spoil: nothing,
        text: /^its files can be opened$/,
        evidence: [
          ['/dev/vfio/vfio', /may be/],
          ['/dev/vfio/26', /may be/],
        ],
      },
      {
        what: 'iommufd needs others',
        spoil: (world) => {
          byIommufd(world);
          world.nodes.remove(world.dev('vfio/26'));
        },
        text: /^its files can be opened$/,
        evidence: [
          ['/dev/iommu', /may be/],
          ['/dev/vfio/devices/vfio010', /may be/],
        ],
      },
    ],
    fails: [
      {
        what: 'this user has no right to the group',
        spoil: (world) => {
          world.nodes.user = 'alice';
          world.nodes.add(world.dev('vfio/26'), '237:26', 'EACCES');
        },
        text: /^this user may not open \/dev\/vfio\/26 \(EACCES\)$/,
        commands: ['chown alice /dev/vfio/26'],
        advice: /udev rule/,
      },
      {
        what: 'this user has no right to iommufd and the cdev',
        spoil: (world) => {
          byIommufd(world);
          world.nodes.user = 'alice';
          world.nodes.add(world.dev('iommu'), '10:127', 'EACCES');
          world.nodes.add(world.dev('vfio/devices/vfio010'), '511:0', 'EACCES');
        },
        text: /may not open \/dev\/iommu .*may not open \/dev\/vfio\/devices\/vfio010/,
        commands: ['chown alice /dev/iommu', 'chown alice /dev/vfio/devices/vfio010'],
      },
      {
        what: 'a container’s cgroup forbids it to root',
        spoil: (world) => world.nodes.add(world.dev('vfio/26'), '237:26', 'EPERM'),
        text: /\(EPERM\): a device cgroup or a security module/,
        commands: [],
      },
      {
        what: 'the file is missing',
        spoil: (world) => world.nodes.remove(world.dev('vfio/26')),
        text: /the kernel has the device, but there is no file \/dev\/vfio\/26/,
        evidence: [['/sys/class/vfio/26/dev', /^237:26$/]],
        commands: ['mkdir -p /dev/vfio', 'mknod /dev/vfio/26 c 237 26'],
      },
      {
        what: 'something is mounted over the folder of two',
        spoil: (world) => {
          world.nodes.remove(world.dev('vfio/vfio'));
          world.nodes.remove(world.dev('vfio/26'));
          world.host.file('proc/self/mountinfo', `1 2 0:5 / ${world.dev('vfio')} rw - tmpfs none rw\n`);
        },
        text: /there is no file \/dev\/vfio\/vfio; .*there is no file \/dev\/vfio\/26$/,
        commands: ['umount /dev/vfio'],
      },
      {
        what: 'something is mounted over the folder',
        spoil: (world) => {
          byIommufd(world);
          world.nodes.remove(world.dev('vfio/devices/vfio010'));
          world.host.file('proc/self/mountinfo', `1 2 0:5 / ${world.dev('vfio')} rw - tmpfs none rw\n`);
        },
        text: /there is no file \/dev\/vfio\/devices\/vfio010/,
        commands: ['umount /dev/vfio'],
      },
    ],
    unknown: [
      {
        what: 'the host has the device',
        spoil: (world) => unbound(world, 'e1000e'),
        text: /^its files come with the VFIO driver$/,
      },
    ],
  },
  peers: {
    ok: [
      { what: 'it is alone', spoil: nothing, text: /^it shares its group with no other device$/ },
      {
        what: 'the whole group is this machine’s',
        spoil: (world) => {
          world.addFunction(AUDIO, 26);
          world.devices({ address: NIC }, { address: AUDIO });
        },
        text: /^group 26 goes to this machine whole, 2 devices$/,
      },
    ],
    warning: [
      {
        what: 'another member stays idle',
        spoil: (world) => world.host.addPci({ address: AUDIO, group: 26 }),
        text: /^group 26 has 0000:01:00\.1 \(no driver\) besides$/,
        advice: /ACS/,
      },
    ],
  },
});
