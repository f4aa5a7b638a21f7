import { MIB, NIC, status } from '../testing/check-world.js';
import { asUser, byIommufd, FOLDER, nothing, testRules, UUID, unbound, vf } from '../testing/rule-rows.js';
import { HOST_RULES } from './rules.js';

testRules(HOST_RULES, {
  kvm: {
    ok: [
      {
        what: 'the file is there',
        spoil: nothing,
        text: /can be opened/,
        evidence: [['/dev/kvm', /may be opened/]],
      },
    ],
    fails: [
      {
        what: 'the module is not loaded',
        spoil: ({ host }) => host.remove('sys/class/misc/kvm'),
        text: /^kvm_intel is not loaded/,
        evidence: [['/sys/class/misc/kvm/dev', /no such file/]],
        commands: ['modprobe kvm_intel'],
      },
      {
        what: 'the processor has no virtualisation',
        spoil: ({ host }) => {
          host.remove('sys/class/misc/kvm');
          host.file('proc/cpuinfo', 'flags\t\t: fpu\n');
        },
        text: /^this host has no KVM/,
        evidence: [['/proc/cpuinfo', /neither vmx nor svm/]],
        commands: [],
        advice: /VT-x or SVM/,
      },
      {
        what: 'another device is mounted over it',
        spoil: (world) => {
          world.nodes.add(world.dev('kvm'), '1:3');
          world.host.file('proc/self/mountinfo', `1 2 0:5 / ${world.dev('kvm')} rw - devtmpfs udev rw\n`);
        },
        text: /\/dev\/kvm is another device/,
        evidence: [
          ['/dev/kvm', /device 1:3/],
          ['/sys/class/misc/kvm/dev', /10:232/],
        ],
        commands: ['umount /dev/kvm'],
      },
      {
        what: 'it is no device at all',
        spoil: (world) => world.nodes.add(world.dev('kvm'), undefined),
        text: /\/dev\/kvm is another device/,
        commands: ['rm /dev/kvm', 'mknod /dev/kvm c 10 232'],
      },
      {
        what: 'this user may not open it',
        spoil: (world) => {
          world.nodes.add(world.dev('kvm'), '10:232', 'EACCES');
          world.nodes.user = 'alice';
        },
        text: /this user may not open \/dev\/kvm \(EACCES\)$/,
        commands: ['chown alice /dev/kvm'],
      },
    ],
  },
  interface: {
    ok: [
      {
        what: 'both are there',
        spoil: nothing,
        text: /^interface group is there; group and iommufd do the same/,
      },
      {
        what: 'iommufd is asked for',
        spoil: byIommufd,
        text: /^interface iommufd is there/,
        evidence: [
          ['/sys/class/misc/iommu/dev', /10:127/],
          [`${FOLDER}/vfio-dev`, /vfio010/],
        ],
      },
      {
        what: 'the kernel has no iommufd',
        spoil: ({ host }) => host.remove('sys/class/misc/iommu'),
        text: /^interface group is there; this kernel has no iommufd/,
      },
      {
        what: 'the kernel has no groups',
        spoil: (world) => {
          byIommufd(world);
          world.host.remove('sys/class/vfio');
        },
        text: /^interface iommufd is there; this kernel has no groups/,
      },
      {
        what: 'there are two devices',
        spoil: (world) => {
          world.addFunction('0000:03:00.0', 27);
          world.devices({ address: NIC }, { address: '0000:03:00.0' });
        },
        text: /group is better: iommufd does not map BARs/,
      },
      {
        what: 'a token is to be given on a kernel before 6.18',
        spoil: (world) => vf(world, 'vfio-pci', { 'vf-token': UUID }),
        text: /group is better: before Linux 6\.18/,
      },
      {
        what: 'a token is to be given on a kernel that takes it by cdev',
        spoil: (world) => {
          vf(world, 'vfio-pci', { 'vf-token': UUID });
          world.host.file('proc/sys/kernel/osrelease', '6.18.2\n');
        },
        text: /; group and iommufd do the same/,
      },
    ],
    fails: [
      {
        what: 'VFIO is not loaded',
        spoil: (world) => {
          unbound(world, 'e1000e');
          world.host.remove('sys/class/misc/vfio');
          world.unload('vfio');
        },
        text: /^no interface group: VFIO is not loaded/,
        commands: ['modprobe vfio-pci'],
      },
      {
        what: 'the kernel has no VFIO',
        spoil: (world) => {
          unbound(world, 'e1000e');
          world.host.remove('sys/class/misc/vfio');
          world.unload('vfio');
          world.modules(['kvm_intel']);
        },
        text: /built without CONFIG_VFIO$/,
        commands: [],
      },
      {
        what: 'the kernel has no containers',
        spoil: ({ host }) => host.remove('sys/class/misc/vfio'),
        text: /built without CONFIG_VFIO_CONTAINER/,
        commands: [],
        advice: /--interface iommufd/,
      },
      {
        what: 'the kernel has no groups',
        spoil: ({ host }) => host.remove('sys/class/vfio'),
        text: /built without CONFIG_VFIO_GROUP/,
        commands: [],
        advice: /--interface iommufd/,
      },
      {
        what: 'type1 is not loaded',
        spoil: (world) => world.unload('vfio_iommu_type1'),
        text: /vfio_iommu_type1 is not loaded/,
        commands: ['modprobe vfio_iommu_type1'],
      },
      {
        what: 'iommufd is not loaded',
        spoil: (world) => {
          byIommufd(world);
          world.host.remove('sys/class/misc/iommu');
          world.unload('iommufd');
        },
        text: /^no interface iommufd: iommufd is not loaded/,
        commands: ['modprobe iommufd'],
        advice: /--interface group/,
      },
      {
        what: 'the kernel has no iommufd',
        spoil: (world) => {
          byIommufd(world);
          world.host.remove('sys/class/misc/iommu');
          world.unload('iommufd');
          world.modules(['vfio', 'vfio_iommu_type1']);
        },
        text: /built without CONFIG_IOMMUFD/,
        commands: [],
      },
      {
        what: 'the kernel has no cdevs',
        spoil: (world) => {
          byIommufd(world);
          world.host.remove(world.nic('vfio-dev'));
        },
        text: /needs CONFIG_VFIO_DEVICE_CDEV/,
        commands: [],
      },
    ],
    unknown: [
      {
        what: 'no VFIO driver has the device yet',
        spoil: (world) => unbound(world, 'e1000e'),
        text: /shows once a VFIO driver has the device/,
      },
    ],
  },
  'memory-lock': {
    ok: [
      {
        what: 'a process with CAP_IPC_LOCK has a low limit',
        spoil: nothing,
        text: /CAP_IPC_LOCK/,
        evidence: [
          ['/proc/self/limits', /8 MiB \(hard limit 8 MiB\)/],
          ['/proc/self/status', /CapEff has CAP_IPC_LOCK/],
        ],
      },
      { what: 'there is no limit', spoil: (world) => asUser(world, Infinity), text: /is not limited$/ },
      {
        what: 'the limit is the guest’s size',
        spoil: (world) => asUser(world, 1024 * MIB),
        text: /^1024 MiB are to be locked, and RLIMIT_MEMLOCK is 1024 MiB$/,
      },
      {
        what: 'type1 does not count other processes',
        spoil: (world) => {
          asUser(world, 1024 * MIB);
          world.host.file('proc/4711/status', status('user', { pinned: 1024 }));
        },
        text: /^1024 MiB are to be locked/,
        evidence: [['VmLck and VmPin in /proc/PID/status', /^type1 counts each process: 0 MiB/]],
      },
    ],
    warning: [
      {
        what: 'iommufd counts another process of this user',
        spoil: (world) => {
          asUser(world, 1024 * MIB, 4096 * MIB);
          byIommufd(world);
          world.host.file('proc/4711/status', status('user', { pinned: 1024 }));
          world.host.file('proc/4712/status', status('user', { pinned: 1 << 20 }).replace(/1000/g, '1001'));
        },
        text: /^1025 MiB are to be locked, and RLIMIT_MEMLOCK is 1024 MiB/,
        evidence: [['VmLck and VmPin in /proc/PID/status', /iommufd counts each user: 1 MiB/]],
        commands: ['prlimit --pid $$ --memlock=1074790400:'],
      },
    ],
    fails: [
      {
        what: 'the limit is a byte below the guest’s size',
        spoil: (world) => asUser(world, 1024 * MIB - 1),
        text: /^1024 MiB are to be locked, and RLIMIT_MEMLOCK is 1024 MiB/,
        commands: ['prlimit --pid $$ --memlock=1073741824'],
        advice: /"USER - memlock 1048576"/,
      },
      {
        what: 'the limit is too low, and the hard limit is not',
        spoil: (world) => asUser(world, 64 * MIB, 1024 * MIB),
        text: /RLIMIT_MEMLOCK is 64 MiB \(hard limit 1024 MiB\)$/,
        commands: ['prlimit --pid $$ --memlock=1073741824:'],
      },
      {
        what: 'this process has locked something',
        spoil: (world) => asUser(world, 1024 * MIB, Infinity, { locked: 4 }),
        text: /are to be locked/,
        commands: ['prlimit --pid $$ --memlock=1073745920:'],
      },
      {
        what: 'the capability is that of a user namespace',
        spoil: ({ host }) => host.file('proc/self/uid_map', '         0       1000          1\n'),
        text: /RLIMIT_MEMLOCK is 8 MiB/,
        evidence: [['/proc/self/uid_map', /user namespace/]],
      },
    ],
    unknown: [
      {
        what: 'the guest’s size is not known',
        spoil: (world) => {
          asUser(world, 64 * MIB);
          world.request = { ...world.request, memory: undefined };
        },
        text: /^a guest of up to 64 MiB fits/,
        advice: /--memory SIZE/,
      },
      {
        what: '/proc does not tell the limit',
        spoil: (world) => {
          world.host.file('proc/self/status', status('user'));
          world.host.remove('proc/self/limits');
        },
        text: /does not show/,
      },
    ],
  },
  'interrupt-remapping': {
    ok: [
      {
        what: 'the chips say so',
        spoil: nothing,
        text: /^interrupts are remapped/,
        evidence: [['/proc/interrupts', /chips IR-IO-APIC/]],
      },
    ],
    warning: [
      {
        what: 'they are not, and the parameter allows that',
        spoil: ({ host }) => {
          host.file('proc/interrupts', '  2:  0  IO-APIC  2-edge  timer\n');
          host.file('sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts', 'Y\n');
        },
        text: /the host takes that risk/,
        commands: [],
      },
    ],
    fails: [
      {
        what: 'they are not',
        spoil: ({ host }) => {
          host.file('proc/interrupts', '  2:  0  IO-APIC  2-edge  timer\n 24:  0  PCI-MSI-edge  eth0\n');
          host.file('sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts', 'N\n');
        },
        text: /^interrupts are not remapped$/,
        evidence: [
          ['/proc/interrupts', /chips IO-APIC, PCI-MSI$/],
          ['/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts', /^N$/],
        ],
        commands: ['echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts'],
        advice: /firmware’s setup/,
      },
      {
        what: 'they are not, and the module is yet to be loaded',
        spoil: (world) => {
          byIommufd(world);
          world.unload('iommufd');
          world.host.file('proc/interrupts', '  2:  0  IO-APIC  2-edge  timer\n');
        },
        text: /^interrupts are not remapped$/,
        commands: ['modprobe iommufd', 'echo 1 > /sys/module/iommufd/parameters/allow_unsafe_interrupts'],
      },
    ],
    unknown: [
      {
        what: '/proc/interrupts cannot be read',
        spoil: ({ host }) => host.remove('proc/interrupts'),
        text: /does not show/,
      },
      {
        what: 'the IOMMU is of another kind',
        spoil: ({ host }) => {
          host.remove('sys/class/iommu');
          host.file('sys/class/iommu/virtio3/x', '');
          host.file('proc/interrupts', '  2:  0  IO-APIC  2-edge  timer\n');
        },
        text: /does not show/,
      },
    ],
  },
});
