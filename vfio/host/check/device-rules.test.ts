import { type CheckWorld, NIC } from '../testing/check-world.js';
import { bindAll, FOLDER, nothing, testRules, UUID, unbound } from '../testing/rule-rows.js';
import { device, driver } from './driver-rules.js';
import { iommu } from './iommu-rules.js';

const VGPU_VF = '0000:41:00.4';
const VGPU_CARD = {
  address: '0000:41:00.0',
  memory: 8,
  types: [{ id: 7, name: 'A-8Q', memory: 8 }],
  vfs: { [VGPU_VF]: 91 },
};

/** No IOMMU at all. */
function withoutIommu(world: CheckWorld): void {
  world.host.remove('sys/class/iommu');
  world.host.remove(world.nic('iommu_group'));
}

testRules([device, iommu, driver], {
  device: {
    ok: [
      { what: 'the function is there', spoil: nothing, text: /^it is there: 8086:10d3$/ },
      {
        what: 'a type of mediated devices has an instance left',
        spoil: (world) => {
          world.host.addMdevParent('mtty', [{ type: 'mtty-2', name: 'Dual port serial', instances: 1 }]);
          world.devices({ address: 'mdev:Dual port serial' });
        },
        text: /^mtty can make one$/,
        evidence: [['/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/available_instances', /^1$/]],
      },
    ],
    fails: [
      {
        what: 'there is no such function',
        spoil: (world) => world.devices({ address: '09:00.0' }),
        text: /^there is no PCI device 0000:09:00\.0$/,
        evidence: [['/sys/bus/pci/devices/0000:09:00.0', /no such file/]],
        advice: /tsvisor devices/,
      },
      {
        what: 'there is no such mediated device',
        spoil: (world) => world.devices({ address: UUID }),
        text: new RegExp(`no mediated device ${UUID}`),
      },
      {
        what: 'nobody offers the type',
        spoil: (world) => world.devices({ address: 'mdev:mtty-9' }),
        text: /no device offers the type mtty-9/,
        advice: /load a driver/,
      },
      {
        what: 'the type has no instance left',
        spoil: (world) => {
          world.host.addMdevParent('mtty', [{ type: 'mtty-2', name: 'Dual port serial', instances: 0 }]);
          world.devices({ address: 'mdev:mtty-2' });
        },
        text: /^mtty has no instance of mtty-2 left/,
      },
    ],
  },
  iommu: {
    ok: [
      {
        what: 'the device has a group',
        spoil: nothing,
        text: /translates its DMA \(dmar0\)$/,
        evidence: [
          [`${FOLDER}/iommu_group`, /^26$/],
          ['/sys/class/iommu', /^dmar0$/],
        ],
      },
    ],
    fails: [
      {
        what: 'the firmware has a table, and the kernel is not told to use it',
        spoil: (world) => {
          withoutIommu(world);
          world.host.file('sys/firmware/acpi/tables/DMAR', '');
          world.host.file('proc/cmdline', 'root=/dev/sda1\n');
        },
        text: /^no IOMMU translates its DMA$/,
        evidence: [
          ['/sys/firmware/acpi/tables', /^DMAR$/],
          ['/proc/cmdline', /^no parameter/],
        ],
        commands: [
          'if command -v grubby > /dev/null; then grubby --update-kernel=ALL --args=intel_iommu=on; else ' +
            `echo 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX intel_iommu=on"' >> /etc/default/grub && ` +
            '{ update-grub || grub2-mkconfig -o /boot/grub2/grub.cfg; }; fi',
        ],
        advice: /then reboot/,
      },
      {
        what: 'the kernel is told not to use it',
        spoil: (world) => {
          withoutIommu(world);
          world.host.file('sys/firmware/acpi/tables/IVRS', '');
          world.host.file('proc/cmdline', 'quiet amd_iommu=off\n');
        },
        text: /^no IOMMU translates its DMA$/,
        commands: [
          'if command -v grubby > /dev/null; then grubby --update-kernel=ALL --remove-args=amd_iommu=off; else ' +
            `sed -i 's/\\bamd_iommu=off\\b//' /etc/default/grub && ` +
            '{ update-grub || grub2-mkconfig -o /boot/grub2/grub.cfg; }; fi',
        ],
      },
      {
        what: 'the kernel does not use what it could',
        spoil: (world) => {
          withoutIommu(world);
          world.host.file('sys/firmware/acpi/tables/IVRS', '');
        },
        text: /^no IOMMU/,
        commands: [],
        advice: /CONFIG_AMD_IOMMU/,
      },
      {
        what: 'the firmware has it off',
        spoil: withoutIommu,
        text: /^no IOMMU/,
        evidence: [['/proc/cpuinfo', /^GenuineIntel$/]],
        commands: [],
        advice: /turn on VT-d in the firmware’s setup, and boot with intel_iommu=on/,
      },
      {
        what: 'the firmware of an AMD machine has it off',
        spoil: (world) => {
          withoutIommu(world);
          world.host.file('proc/cpuinfo', 'vendor_id\t: AuthenticAMD\n');
        },
        text: /^no IOMMU/,
        advice: /turn on AMD-Vi \(IOMMU\) in the firmware’s setup$/,
      },
      {
        what: 'the host is a virtual machine',
        spoil: (world) => {
          withoutIommu(world);
          world.host.file('proc/cpuinfo', 'vendor_id\t: GenuineIntel\nflags\t: vmx hypervisor\n');
        },
        text: /^no IOMMU/,
        advice: /virtual IOMMU/,
      },
      {
        what: 'the IOMMU does not cover the device',
        spoil: (world) => world.host.remove(world.nic('iommu_group')),
        text: /^no IOMMU/,
        commands: [],
        advice: /does not cover this device/,
      },
      {
        what: 'VFIO does without one',
        spoil: ({ host }) => {
          host.remove('sys/class/iommu');
          host.file('sys/class/vfio/noiommu-26/dev', '237:0\n');
        },
        text: /VFIO made group 26 for want of one$/,
        evidence: [['/sys/class/vfio/noiommu-26', /there/]],
      },
    ],
  },
  driver: {
    ok: [
      {
        what: 'option vgpu-type gives a VF a type that it can have',
        spoil: (world) => {
          world.host.addVgpuCard(VGPU_CARD);
          world.devices({ address: VGPU_VF, options: { 'vgpu-type': 'A-8Q' } });
        },
        text: /^option vgpu-type makes it a vGPU of nvidia for the run$/,
      },
      {
        what: 'vfio-pci has it',
        spoil: nothing,
        text: /^the VFIO driver vfio-pci has it$/,
        evidence: [[`${FOLDER}/driver`, /^vfio-pci$/]],
      },
      {
        what: 'option bind takes it',
        spoil: (world) => {
          unbound(world, 'e1000e');
          world.devices({ address: NIC, options: { bind: 'vfio-pci' } });
        },
        text: /option bind gives it to vfio-pci/,
      },
    ],
    fails: [
      {
        what: 'a VF for vGPUs has no type',
        spoil: (world) => {
          world.host.addVgpuCard(VGPU_CARD);
          world.devices({ address: VGPU_VF });
        },
        text: /^it cannot be a vGPU as it is asked for$/,
        advice: /option vgpu-type=NAME .*A-8Q \(7\)$/,
      },
      {
        what: 'the VF cannot have the type that option vgpu-type names',
        spoil: (world) => {
          world.host.addVgpuCard(VGPU_CARD);
          world.devices({ address: VGPU_VF, options: { 'vgpu-type': 'B' } });
        },
        text: /^it cannot be a vGPU as it is asked for$/,
        advice: /those that would fit: A-8Q \(7\)$/,
      },
      {
        what: 'the host has it',
        spoil: (world) => unbound(world, 'e1000e'),
        text: /^the host uses it \(driver e1000e\)$/,
        evidence: [[`${FOLDER}/driver`, /^e1000e$/]],
        commands: bindAll(NIC, 'e1000e'),
        advice: /tsvisor bind 0000:01:00\.0.*,bind=vfio-pci/,
      },
      {
        what: 'nobody has it',
        spoil: (world) => unbound(world),
        text: /^no driver has it$/,
        commands: bindAll(NIC, undefined),
      },
      {
        what: 'the kernel has no vfio-pci',
        spoil: (world) => {
          unbound(world, 'e1000e');
          world.host.remove('sys/bus/pci/drivers/vfio-pci');
          world.unload('vfio_pci');
          world.modules(['vfio']);
        },
        text: /built without the driver vfio-pci \(CONFIG_VFIO_PCI\)/,
        commands: [],
      },
      {
        what: 'option bind names a driver that is not loaded',
        spoil: (world) => {
          unbound(world, 'mlx5_core');
          world.modules([], ['mlx5_vfio_pci']);
          world.devices({ address: NIC, options: { bind: 'mlx5_vfio_pci' } });
        },
        text: /^the driver mlx5_vfio_pci is not loaded/,
        commands: ['modprobe mlx5_vfio_pci'],
      },
      {
        what: 'option bind names no driver',
        spoil: (world) => {
          unbound(world, 'e1000e');
          world.host.remove('modules');
          world.devices({ address: NIC, options: { bind: '../../etc;reboot' } });
        },
        text: /is not loaded/,
        commands: [],
      },
      {
        what: 'it is a bridge',
        spoil: (world) => {
          world.host.addPci({ address: '0000:00:1c.0', driver: 'pcieport', group: 4, headerType: 1 });
          world.devices({ address: '0000:00:1c.0' });
        },
        text: /^it is a bridge$/,
        commands: [],
        advice: /secondary bus/,
      },
      {
        what: 'a mediated device has no VFIO driver',
        spoil: (world) => {
          world.host.file(`sys/devices/virtual/mtty/${UUID}/remove`, '');
          world.host.link(`sys/devices/virtual/mtty/${UUID}/subsystem`, `${world.host.roots.sys}/bus/mdev`);
          world.host.link(
            `sys/bus/mdev/devices/${UUID}`,
            `${world.host.roots.sys}/devices/virtual/mtty/${UUID}`,
          );
          world.devices({ address: UUID });
        },
        text: /^no VFIO driver has it$/,
        advice: /mdev bus/,
      },
    ],
  },
});
