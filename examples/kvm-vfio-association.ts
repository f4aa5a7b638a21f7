/**
 * Shows  an integration test of the association with KVM, with a race whose order the test chooses
 * Needs  nothing: the core runs in this process, and the VMs are scripted
 * Prints the timeline; a failed expectation ends the program with status 1
 *
 *   node dist/examples/kvm-vfio-association.js
 */
import assert from 'node:assert/strict';
import {
  everyInterleaving,
  RecordingListener,
  Scheduler,
  ScriptedVm,
  Timeline,
  World,
} from 'tsvisor/testing';
import { type KvmPointer, VFIO_GROUP_NOTIFY, VFIO_GROUP_NOTIFY_SET_KVM } from 'tsvisor/vfio';

/** A device whose group is open, in a container, and associated with a VM. */
function begin() {
  const world = new World();
  const nic = world.device();
  const contained = world.contain(nic);
  const vm = new ScriptedVm('first');
  const kvmVfio = vm.createKvmVfio(world.core.vfioFileOps);
  kvmVfio.addFile(contained.group);
  const end = () => {
    contained.close();
    world.remove(nic);
    world.end(); // throws if there are leaks or warnings
  };
  return { world, nic, contained, vm, kvmVfio, end };
}

/** openDevice gets the VM; a listener that registers later gets it replayed, then the change to another VM. */
function replayAndMove(): void {
  const { world, nic, contained, vm, kvmVfio, end } = begin();
  const file = world.open(contained, nic);
  assert.equal(nic.ops.open?.kvm, vm);
  const late = new RecordingListener<KvmPointer | null>('late');
  world.core.run(nic.device.registerNotifier(VFIO_GROUP_NOTIFY, { mask: VFIO_GROUP_NOTIFY_SET_KVM }, late));
  assert.deepEqual(late.heard, [vm]);
  const second = new ScriptedVm('second');
  kvmVfio.removeFile(contained.group);
  second.createKvmVfio(world.core.vfioFileOps).addFile(contained.group);
  assert.deepEqual(late.heard, [vm, null, second]);
  assert.equal(vm.references, 2, 'the open device keeps the VM that it was opened in');
  world.core.run(nic.device.unregisterNotifier(VFIO_GROUP_NOTIFY, late));
  second.put();
  file[Symbol.dispose]();
  end();
}

/** A race of a VM's destruction against the open of a device that is associated with it. */
function raceOfEndAndOpen() {
  const { world, nic, contained, vm, end } = begin();
  const scheduler = new Scheduler(world.core.environment.executor);
  const open = scheduler.spawn('GET_DEVICE_FD', contained.group.getDeviceFdSteps(nic.device.name));
  const endOfVm = function* () {
    yield* contained.group.setKvmSteps(null);
    vm.put();
  };
  const check = () => {
    open.value[Symbol.dispose]();
    assert(vm.isFreed && vm.usesAfterFree.length === 0);
    end();
  };
  return { scheduler, open, endOfVm: scheduler.spawn('end of VM', endOfVm()), check };
}

console.log(`${everyInterleaving(raceOfEndAndOpen)} interleavings, and none uses the VM after its end`);
const timeline = Timeline.start();
process.on('exit', () => console.log(timeline.toText()));
replayAndMove();
const { scheduler, open, endOfVm, check } = raceOfEndAndOpen();
scheduler.runTo(open, 'read the cache');
assert.equal(scheduler.run(endOfVm), false, 'it waits until the open has its reference');
scheduler.runAll();
check();
