/** Names of PCI vendors, devices and classes, from the host's pci.ids. */
import { text } from '../sysfs.js';

/** Where distributions install pci.ids, most common first. */
export const PCI_IDS_PATHS: readonly string[] = ['/usr/share/misc/pci.ids', '/usr/share/hwdata/pci.ids'];

const CLASS_PREFIX = 'C ';

/**
 * The names that a pci.ids file gives to numbers. All numbers are in hexadecimal, in lower case, without `0x`.
 * @see https://pci-ids.ucw.cz
 */
export class PciNames {
  /** By path of numbers: `8086`, `8086 10d3`, `8086 10d3 103c 1497`, `C 02`, `C 02 00`, `C 0c 03 30`. */
  readonly #names = new Map<string, string>();

  /** @param source content of a pci.ids file; lines that are none of its are skipped */
  constructor(source = '') {
    let outer = '';
    let inner = '';
    for (const line of source.split('\n')) {
      const match = /^(\t{0,2})((?:C )?[0-9a-f]{2,4}(?: [0-9a-f]{4})?) {2}(.+)$/.exec(line);
      if (match === null) {
        // Of other sections (`S`, `L` …), what is indented below belongs to none of ours.
        if (/^[^\t#]/.test(line)) outer = inner = '-';
        continue;
      }
      const [, indent, id, name] = match as unknown as [string, string, string, string];
      if (indent === '') {
        outer = inner = id;
        this.#names.set(outer, name);
      } else if (indent === '\t') {
        inner = `${outer} ${id}`;
        this.#names.set(inner, name);
      } else this.#names.set(`${inner} ${id}`, name);
    }
  }

  /** Reads the first of `paths` that exists; without one, nothing has a name. */
  static load(paths: readonly string[] = PCI_IDS_PATHS): PciNames {
    for (const path of paths) {
      const source = text(path);
      if (source !== undefined) return new PciNames(source);
    }
    return new PciNames();
  }

  /** The name of a vendor; undefined if the file has none. */
  vendor(id: string): string | undefined {
    return this.#names.get(id);
  }

  /** The name of a vendor's device; undefined if the file has none. */
  device(vendor: string, device: string): string | undefined {
    return this.#names.get(`${vendor} ${device}`);
  }

  /** The name of a card on which a vendor put this device; undefined if the file has none. */
  subsystem(
    vendor: string,
    device: string,
    subsystemVendor: string,
    subsystemDevice: string,
  ): string | undefined {
    return this.#names.get(`${vendor} ${device} ${subsystemVendor} ${subsystemDevice}`);
  }

  /**
   * The name of a class, as exact as the file knows it: of programming interface, subclass, or base class.
   * @param id six digits: `0c0330`
   */
  class(id: string): string | undefined {
    const [base, sub, interfaceId] = [id.slice(0, 2), id.slice(2, 4), id.slice(4)];
    const subclass = this.#names.get(`${CLASS_PREFIX}${base} ${sub}`);
    const programming = this.#names.get(`${CLASS_PREFIX}${base} ${sub} ${interfaceId}`);
    if (subclass === undefined) return this.#names.get(`${CLASS_PREFIX}${base}`);
    return programming === undefined ? subclass : `${subclass} (${programming})`;
  }
}
