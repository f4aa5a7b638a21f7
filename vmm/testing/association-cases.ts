/**
 * The association of KVM and VFIO as named cases, each with what happens: in this package's core, and in Linux. One suite for both:
 * vmm/association.kvm.test.ts, lab/kvm-vfio.lab.test.ts; docs/kvm-vfio.md is its table.
 */
import { Kvm, KvmVfio, type VfioFile, type VfioFileOps, type Vm } from '../../kvm/index.js';
import { SysError } from '../../sys/error.js';
import { Scope } from '../../sys/scope.js';
import type { VfioProvider } from '../../vfio/provider.js';
import { type ContainerFile, type DeviceFile, type GroupFile, VFIO_TYPE1v2_IOMMU } from '../../vfio/uapi.js';

/** Something that VFIO did. `vm` is any name of a VM, the same while that lives; undefined for none. */
export type AssociationEvent =
  /** It was told a file's VM. @see vfio_file_set_kvm */
  | { readonly what: 'set_kvm'; readonly vm: string | undefined }
  /** A device was opened, with the VM that is its `device->kvm` from then on. */
  | { readonly what: 'open'; readonly vm: string | undefined }
  /** The last file of a device was closed. */
  | { readonly what: 'last close' };

/** A device, and where it is found. */
export interface SubjectDevice {
  readonly name: string;
  readonly group: number;
  readonly cdev: string;
}

/** A VFIO, and devices of it that nobody uses. */
export interface AssociationSubject {
  readonly provider: Pick<VfioProvider, 'groups' | 'cdevs'>;
  /** For a VFIO of this process. */
  readonly fileOps: VfioFileOps | undefined;
  /** A device alone in its group. */
  readonly alone: SubjectDevice;
  /** Two devices of one group. */
  readonly shared: readonly [SubjectDevice, SubjectDevice];
  /** What happened since the last call. */
  takeEvents(): readonly AssociationEvent[];
  /** What a listener hears that registers for SET_KVM now; undefined where a driver cannot register one. */
  replayed?(device: SubjectDevice): readonly (string | undefined)[];
}

/** A case. */
export interface AssociationCase {
  readonly name: string;
  /** The rule of docs/behaviours.md that it is about. */
  readonly rule: string;
  run(run: AssociationRun): void;
  /** What the core answers, and Linux, unless that has answers of its own. */
  readonly answers: readonly string[];
  /** Linux's answers where they differ. */
  readonly linux?: { readonly answers: readonly string[]; readonly reason: string };
}

/** A run of one case: acts, and writes down what happens. */
export class AssociationRun implements Disposable {
  readonly answers: string[] = [];
  readonly subject: AssociationSubject;
  readonly #scope = new Scope();
  readonly #kvm = this.#scope.own(Kvm.open());
  readonly #names = new Map<string, string>();
  #named = 0;

  constructor(subject: AssociationSubject) {
    this.subject = subject;
    subject.takeEvents();
  }

  vm(): { readonly vm: Vm; readonly kvmVfio: KvmVfio } {
    const vm = this.#scope.own(this.#kvm.createVm());
    return { vm, kvmVfio: KvmVfio.create(vm, this.subject.fileOps) };
  }

  /** A group in a container of its own. */
  contain(device: SubjectDevice): GroupFile & { readonly container: ContainerFile } {
    const { groups } = this.#interfaces;
    const container = this.#scope.own(groups.openContainer());
    const group = this.#scope.own(groups.openGroup(device.group));
    group.setContainer(container);
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    return Object.assign(group, { container });
  }

  open(group: GroupFile, { name }: SubjectDevice): DeviceFile {
    return this.#scope.own(group.getDeviceFd(name));
  }

  openGroup({ group }: SubjectDevice): GroupFile {
    return this.#scope.own(this.#interfaces.groups.openGroup(group));
  }

  cdev({ cdev }: SubjectDevice) {
    return this.#scope.own(this.#interfaces.cdevs.openCdev(cdev));
  }

  iommufd() {
    return this.#scope.own(this.#interfaces.cdevs.openIommufd());
  }

  get #interfaces() {
    const { groups, cdevs } = this.subject.provider;
    if (groups === undefined || cdevs === undefined) throw new Error('it has only one of the interfaces');
    return { groups, cdevs };
  }

  /** Acts, and writes down the action with its events, or its error. */
  step(action: string, act: () => unknown): void {
    let result = '';
    try {
      act();
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      result = error.code;
    }
    const events = this.subject.takeEvents().flatMap((event) => this.#text(event));
    this.answers.push(`${action}: ${[result, ...events].filter(Boolean).join(', ') || 'nothing'}`);
  }

  /** Writes down a fact. */
  say(text: string): void {
    this.answers.push(text);
  }

  /** The device answers. */
  works(device: DeviceFile): void {
    this.say(`the device ${device.getInfo().numRegions > 0 ? 'works' : 'has no regions'}`);
  }

  /** All VMs so far are gone, and nothing keeps them: another one may be where one was. */
  forgetVms(): void {
    this.#names.clear();
  }

  nameOf(vm: string | undefined): string {
    if (vm === undefined) return 'none';
    const known = this.#names.get(vm) ?? `VM ${++this.#named}`;
    this.#names.set(vm, known);
    return known;
  }

  #text(event: AssociationEvent): string[] {
    if (event.what === 'last close') return [event.what];
    if (event.what === 'set_kvm') return [`set_kvm ${this.nameOf(event.vm)}`];
    // Linux does not look for a VM where there is none to be had.
    return event.vm === undefined ? [] : [`opened with ${this.nameOf(event.vm)}`];
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
    this.subject.takeEvents();
  }
}

export const ASSOCIATION_CASES: readonly AssociationCase[] = [
  {
    name: 'association before open',
    rule: 'C11',
    run(run) {
      const group = run.contain(run.subject.alone);
      const { kvmVfio } = run.vm();
      run.step('ADD', () => kvmVfio.addFile(group));
      let device: DeviceFile | undefined;
      run.step('open', () => {
        device = run.open(group, run.subject.alone);
      });
      run.step('close', () => device?.[Symbol.dispose]());
    },
    answers: ['ADD: set_kvm VM 1', 'open: opened with VM 1', 'close: last close'],
  },
  {
    name: 'association after open, which the next open sees',
    rule: 'C11',
    run(run) {
      const group = run.contain(run.subject.alone);
      const { kvmVfio } = run.vm();
      let device: DeviceFile | undefined;
      run.step('open', () => {
        device = run.open(group, run.subject.alone);
      });
      run.step('ADD', () => kvmVfio.addFile(group));
      run.step('close', () => device?.[Symbol.dispose]());
      run.step('open', () => run.open(group, run.subject.alone));
    },
    answers: ['open: nothing', 'ADD: set_kvm VM 1', 'close: last close', 'open: opened with VM 1'],
  },
  {
    name: 'replay to a driver that registers a listener after the association',
    rule: 'C2',
    run(run) {
      const { alone } = run.subject;
      const group = run.contain(alone);
      const { kvmVfio } = run.vm();
      run.step('ADD', () => kvmVfio.addFile(group));
      run.step('open', () => run.open(group, alone));
      const heard = run.subject.replayed?.(alone);
      run.say(
        heard === undefined
          ? 'no listeners'
          : `the listener hears ${heard.map((vm) => run.nameOf(vm)).join(', ')}`,
      );
    },
    answers: ['ADD: set_kvm VM 1', 'open: opened with VM 1', 'the listener hears VM 1'],
    linux: {
      answers: ['ADD: set_kvm VM 1', 'open: opened with VM 1', 'no listeners'],
      reason:
        'Linux 5.19 removed VFIO_GROUP_NOTIFY_SET_KVM (421cfe6596f6): `device->kvm`, fixed at the open, took its place. The core has both.',
    },
  },
  {
    name: 'DEL while the device is open',
    rule: 'C5',
    run(run) {
      const group = run.contain(run.subject.alone);
      const { kvmVfio } = run.vm();
      kvmVfio.addFile(group);
      const device = run.open(group, run.subject.alone);
      run.subject.takeEvents();
      run.step('DEL', () => kvmVfio.removeFile(group));
      run.works(device);
      run.step('close', () => device[Symbol.dispose]());
      run.step('open', () => run.open(group, run.subject.alone));
    },
    answers: ['DEL: set_kvm none', 'the device works', 'close: last close', 'open: nothing'],
  },
  {
    name: 'the VM goes while the device is open',
    rule: 'C13',
    run(run) {
      const group = run.contain(run.subject.alone);
      const { vm, kvmVfio } = run.vm();
      run.step('ADD', () => kvmVfio.addFile(group));
      const device = run.open(group, run.subject.alone);
      run.subject.takeEvents();
      run.step('VM closed', () => vm[Symbol.dispose]());
      run.works(device);
      run.step('close', () => device[Symbol.dispose]());
      run.step('open', () => run.open(group, run.subject.alone));
    },
    answers: [
      'ADD: set_kvm VM 1',
      'VM closed: set_kvm none',
      'the device works',
      'close: last close',
      'open: nothing',
    ],
  },
  {
    name: 'the VM goes before the open, and another one comes',
    rule: 'C6',
    run(run) {
      const group = run.contain(run.subject.alone);
      const first = run.vm();
      run.step('ADD', () => first.kvmVfio.addFile(group));
      run.step('VM closed', () => first.vm[Symbol.dispose]());
      let device: DeviceFile | undefined;
      run.step('open', () => {
        device = run.open(group, run.subject.alone);
      });
      run.step('close', () => device?.[Symbol.dispose]());
      run.forgetVms();
      const second = run.vm();
      run.step('ADD to another', () => second.kvmVfio.addFile(group));
      run.step('open', () => run.open(group, run.subject.alone));
    },
    answers: [
      'ADD: set_kvm VM 1',
      'VM closed: set_kvm none',
      'open: nothing',
      'close: last close',
      'ADD to another: set_kvm VM 2',
      'open: opened with VM 2',
    ],
  },
  {
    name: 'a group of two VMs: the last one told is the device’s, and the end of either takes it away',
    rule: 'C12',
    run(run) {
      const group = run.contain(run.subject.alone);
      const [one, two] = [run.vm(), run.vm()];
      run.step('ADD to the first', () => one.kvmVfio.addFile(group));
      run.step('ADD to the second', () => two.kvmVfio.addFile(group));
      let device: DeviceFile | undefined;
      run.step('open', () => {
        device = run.open(group, run.subject.alone);
      });
      run.step('close', () => device?.[Symbol.dispose]());
      run.step('DEL from the first', () => one.kvmVfio.removeFile(group));
      run.step('open', () => run.open(group, run.subject.alone));
    },
    answers: [
      'ADD to the first: set_kvm VM 1',
      'ADD to the second: set_kvm VM 2',
      'open: opened with VM 2',
      'close: last close',
      'DEL from the first: set_kvm none',
      'open: nothing',
    ],
  },
  {
    name: 'a group that moves to a second VM',
    rule: 'C6',
    run(run) {
      const group = run.contain(run.subject.alone);
      const [one, two] = [run.vm(), run.vm()];
      run.step('ADD', () => one.kvmVfio.addFile(group));
      run.step('DEL', () => one.kvmVfio.removeFile(group));
      run.step('ADD to the second', () => two.kvmVfio.addFile(group));
      run.step('open', () => run.open(group, run.subject.alone));
    },
    answers: [
      'ADD: set_kvm VM 1',
      'DEL: set_kvm none',
      'ADD to the second: set_kvm VM 2',
      'open: opened with VM 2',
    ],
  },
  {
    name: 'a device that is open keeps its VM while its group moves to a second one',
    rule: 'C11',
    run(run) {
      const group = run.contain(run.subject.alone);
      const [one, two] = [run.vm(), run.vm()];
      one.kvmVfio.addFile(group);
      run.step('open', () => run.open(group, run.subject.alone));
      run.step('DEL', () => one.kvmVfio.removeFile(group));
      run.step('ADD to the second', () => two.kvmVfio.addFile(group));
      run.step('open again', () => run.open(group, run.subject.alone));
    },
    answers: [
      'open: set_kvm VM 1, opened with VM 1',
      'DEL: set_kvm none',
      'ADD to the second: set_kvm VM 2',
      'open again: nothing',
    ],
  },
  {
    name: 'two groups of one VM, and the end of the VM',
    rule: 'C13',
    run(run) {
      const { alone, shared } = run.subject;
      const [one, other] = [run.contain(alone), run.contain(shared[0])];
      const { vm, kvmVfio } = run.vm();
      run.step('ADD', () => kvmVfio.addFile(one));
      run.step('ADD another', () => kvmVfio.addFile(other));
      run.step('VM closed', () => vm[Symbol.dispose]());
    },
    answers: ['ADD: set_kvm VM 1', 'ADD another: set_kvm VM 1', 'VM closed: set_kvm none, set_kvm none'],
  },
  {
    name: 'two devices of one group get the VM by one ADD',
    rule: 'C11',
    run(run) {
      const [one, other] = run.subject.shared;
      const group = run.contain(one);
      const { kvmVfio } = run.vm();
      run.step('ADD', () => kvmVfio.addFile(group));
      run.step('open', () => run.open(group, one));
      run.step('open the other', () => run.open(group, other));
    },
    answers: ['ADD: set_kvm VM 1', 'open: opened with VM 1', 'open the other: opened with VM 1'],
  },
  {
    name: 'a second open of one device neither takes the VM again nor gives it back',
    rule: 'C11',
    run(run) {
      const group = run.contain(run.subject.alone);
      const { kvmVfio } = run.vm();
      kvmVfio.addFile(group);
      run.subject.takeEvents();
      const first = run.open(group, run.subject.alone);
      run.step('first open', () => {});
      let second: DeviceFile | undefined;
      run.step('second open', () => {
        second = run.open(group, run.subject.alone);
      });
      run.step('second close', () => second?.[Symbol.dispose]());
      run.step('first close', () => first[Symbol.dispose]());
    },
    answers: [
      'first open: opened with VM 1',
      'second open: nothing',
      'second close: nothing',
      'first close: last close',
    ],
  },
  {
    name: 'a cdev: ADD before the bind',
    rule: 'D8',
    run(run) {
      const cdev = run.cdev(run.subject.alone);
      const { kvmVfio } = run.vm();
      run.step('ADD', () => kvmVfio.addFile(cdev));
      run.step('bind', () => cdev.bindIommufd(run.iommufd()));
      run.step('DEL', () => kvmVfio.removeFile(cdev));
      run.works(cdev);
      run.step('close', () => cdev[Symbol.dispose]());
    },
    answers: [
      'ADD: set_kvm VM 1',
      'bind: opened with VM 1',
      'DEL: set_kvm none',
      'the device works',
      'close: last close',
    ],
  },
  {
    name: 'a cdev: ADD after the bind, which the device does not see',
    rule: 'D8',
    run(run) {
      const cdev = run.cdev(run.subject.alone);
      const { kvmVfio } = run.vm();
      run.step('bind', () => cdev.bindIommufd(run.iommufd()));
      run.step('ADD', () => kvmVfio.addFile(cdev));
      run.works(cdev);
    },
    answers: ['bind: nothing', 'ADD: set_kvm VM 1', 'the device works'],
  },
  {
    name: 'a cdev that its user closes is the VM’s until that ends',
    rule: 'C13',
    run(run) {
      const cdev = run.cdev(run.subject.alone);
      const { vm, kvmVfio } = run.vm();
      run.step('ADD', () => kvmVfio.addFile(cdev));
      run.step('bind', () => cdev.bindIommufd(run.iommufd()));
      run.step('close', () => cdev[Symbol.dispose]());
      run.step('VM closed', () => vm[Symbol.dispose]());
    },
    answers: [
      'ADD: set_kvm VM 1',
      'bind: opened with VM 1',
      'close: nothing',
      'VM closed: set_kvm none, last close',
    ],
  },
  {
    name: 'a group that its user closes is the VM’s until that ends',
    rule: 'C13',
    run(run) {
      const { alone } = run.subject;
      const group = run.openGroup(alone);
      const { vm, kvmVfio } = run.vm();
      run.step('ADD', () => kvmVfio.addFile(group));
      run.step('close', () => group[Symbol.dispose]());
      run.step('open the group', () => run.openGroup(alone));
      run.step('VM closed', () => vm[Symbol.dispose]());
      run.step('open the group', () => run.openGroup(alone));
    },
    answers: [
      'ADD: set_kvm VM 1',
      'close: nothing',
      'open the group: EBUSY',
      'VM closed: set_kvm none',
      'open the group: nothing',
    ],
  },
  {
    name: 'what is refused changes nothing',
    rule: 'C12',
    run(run) {
      const group = run.contain(run.subject.alone);
      const { kvmVfio } = run.vm();
      run.step('DEL before ADD', () => kvmVfio.removeFile(group));
      run.step('ADD', () => kvmVfio.addFile(group));
      run.step('ADD again', () => kvmVfio.addFile(group));
      run.step('ADD the container', () => kvmVfio.addFile(group.container as VfioFile));
      run.step('unknown attribute', () => kvmVfio.setAttr(1, 3, group));
      run.step('open', () => run.open(group, run.subject.alone));
    },
    answers: [
      'DEL before ADD: ENOENT',
      'ADD: set_kvm VM 1',
      'ADD again: EEXIST',
      'ADD the container: EINVAL',
      'unknown attribute: ENXIO',
      'open: opened with VM 1',
    ],
  },
];

/** Runs a case; returns what happened. */
export function runAssociation(each: AssociationCase, subject: AssociationSubject): readonly string[] {
  using run = new AssociationRun(subject);
  each.run(run);
  return [...run.answers];
}

const cell = (answers: readonly string[]): string => answers.join('<br>');

/** The table of docs/kvm-vfio.md. */
export const associationTable = (): string =>
  [
    '| case | rule | the core | Linux |',
    '|---|---|---|---|',
    ...ASSOCIATION_CASES.map(({ name, rule, answers, linux }) => {
      const theirs = linux === undefined ? 'the same' : cell(linux.answers);
      return `| ${name} | ${rule} | ${cell(answers)} | ${theirs} |`;
    }),
    '',
    ...ASSOCIATION_CASES.flatMap(({ name, linux }) =>
      linux === undefined ? [] : [`- **${name}**: ${linux.reason}`],
    ),
  ].join('\n');
