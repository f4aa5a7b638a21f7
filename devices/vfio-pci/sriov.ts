import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Scope } from '../../sys/scope.js';
import type { OpenedVf, VfPlaces, VirtualFunctionState } from '../../vfio/assign/index.js';
import type { SriovFunctions } from '../../vfio/sriov.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import type { BarShape } from '../pci/bar.js';
import type { ConfigSpace } from '../pci/config-space.js';
import { attempt, errorText, note, noteMisuse, plural } from './notes.js';
import { SriovRegisters } from './sriov-registers.js';
import { VirtualFunction } from './virtual-function.js';

/** A VF's function before the guest sees it as one: VfioPciDevice, whose file imports this one. */
export type OpenVf = (
  name: string,
  file: DeviceFile,
) => ConstructorParameters<typeof VirtualFunction>[0] & { readonly bars: readonly BarShape[] };

/** Parts of {@link Sriov}. */
export interface SriovParts {
  /** Name of the physical function. */
  readonly name: string;
  /** Has the capability's registers. */
  readonly space: ConfigSpace;
  readonly source: SriovFunctions<OpenedVf>;
  readonly places: VfPlaces;
  readonly open: OpenVf;
}

interface Vf {
  readonly index: number;
  readonly function: VirtualFunction;
  readonly owned: Scope;
}

/**
 * The VFs of a device, as its SR-IOV capability's registers say: they come with VF Enable, and are gone once it is cleared. A VF that
 * cannot be created is not there: its configuration space reads all-ones. Nothing that a guest writes makes it throw. Machine
 * thread only.
 */
export class Sriov implements Disposable {
  readonly #parts: SriovParts;
  readonly #registers: SriovRegisters;
  #vfs: readonly Vf[] = [];
  #isEnabled = false;
  /** Where the VFs decode now: their addresses, or nothing. */
  #placed = '';

  constructor(parts: SriovParts) {
    this.#parts = parts;
    this.#registers = new SriovRegisters(parts.space, parts.source);
    this.#registers.resize();
  }

  /** Whether VF Enable is set. */
  get isEnabled(): boolean {
    return this.#isEnabled;
  }

  /** The VFs that there are. */
  get states(): readonly VirtualFunctionState[] {
    return this.#vfs.map((vf) => ({ name: vf.function.name, ...vf.function.inspect() }));
  }

  /** @see SriovRegisters.touches */
  touches(offset: number, bytes: number): boolean {
    return this.#registers.touches(offset, bytes);
  }

  /** After a write to the registers: VFs come, go and move. */
  update(): void {
    const { isEnabled } = this.#registers;
    if (!isEnabled) this.#disable();
    else if (!this.#isEnabled) this.#enable();
    this.#registers.lock(isEnabled);
    this.#registers.resize();
    this.#place();
  }

  /** The physical function is reset: its VFs are gone, and the registers are as at power-on. */
  reset(): void {
    this.#disable();
    this.#registers.reset();
  }

  [Symbol.dispose](): void {
    this.#disable();
  }

  #enable(): void {
    const { name, source } = this.#parts;
    const { numVfs } = this.#registers;
    this.#isEnabled = true;
    if (numVfs > source.totalVfs) {
      noteMisuse(name, 'sriov', `NumVFs is ${numVfs}, and there are ${source.totalVfs}: no VF is enabled`);
      return;
    }
    const vfs: Vf[] = [];
    for (let index = 0; index < numVfs; index++) {
      const vf = this.#open(index);
      if (vf !== undefined) vfs.push(vf);
    }
    this.#vfs = vfs;
    note(name, 'sriov', `${plural(vfs.length, 'virtual function')} enabled`);
  }

  #disable(): void {
    const { name } = this.#parts;
    const vfs = this.#vfs;
    this.#vfs = [];
    this.#placed = '';
    this.#isEnabled = false;
    for (const vf of vfs) attempt(name, 'sriov', () => vf.owned[Symbol.dispose]());
    if (vfs.length > 0) note(name, 'sriov', `${plural(vfs.length, 'virtual function')} disabled`);
  }

  #open(index: number): Vf | undefined {
    const { source, places, open, name: physfn } = this.#parts;
    const name = places.name(index);
    try {
      using scope = new Scope();
      const { file } = scope.own(source.create(index));
      const device = scope.own(open(name, file));
      checkBars(name, source.bars, device.bars);
      const pciFunction = new VirtualFunction(device, source.bars);
      scope.own(places.add(index, pciFunction));
      return { index, function: pciFunction, owned: scope.move() };
    } catch (error) {
      note(physfn, 'sriov', `${name} is not there: ${errorText(error)}`);
      return undefined;
    }
  }

  /** All VFs leave before one comes: a VF may move to where another one was. */
  #place(): void {
    const { source } = this.#parts;
    const { isDecoding } = this.#registers;
    const addresses = this.#vfs.map(({ index }) =>
      source.bars.map((bar) => (isDecoding ? this.#registers.address(bar, index) : undefined)),
    );
    const placed = isDecoding && this.#vfs.length > 0 ? addresses.join() : '';
    if (placed === this.#placed) return;
    this.#placed = placed;
    for (const vf of this.#vfs) vf.function.hide();
    if (!isDecoding) return;
    for (const [i, vf] of this.#vfs.entries())
      vf.function.show((bar) => addresses[i]?.[source.bars.indexOf(bar)]);
  }
}

/** @throws SysError EINVAL if the VF's file has other BARs than its physical function says */
function checkBars(name: string, bars: readonly Omit<BarShape, 'kind'>[], own: readonly BarShape[]): void {
  for (const { index, size } of bars)
    if (own.find((bar) => bar.index === index)?.size !== size)
      throw new SysError({
        call: 'VFIO_DEVICE_GET_REGION_INFO',
        target: name,
        errno: errno.EINVAL,
        hint: `BAR ${index} is not of ${size} bytes, as its physical function says`,
      });
}
