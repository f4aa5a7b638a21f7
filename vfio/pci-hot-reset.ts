/** Hot reset of linux/vfio.h: the reset of a PCI slot or bus, which affects every function on it. */

/** A function that a hot reset affects: struct vfio_pci_dependent_device. */
export interface DependentDevice {
  /** PCI address; the name of a device of this process. */
  readonly address: string;
  /** Number of its IOMMU group, if the device was opened through a group. */
  readonly group?: number;
  /** Its id in the iommufd, if the device was opened by its cdev; 0: owned through its group. */
  readonly devid?: number;
  /** For a cdev: whether the function belongs to the same iommufd. */
  readonly isOwned?: boolean;
}

/** Reply to VFIO_DEVICE_GET_PCI_HOT_RESET_INFO. */
export interface HotResetInfo {
  /** Every function that the reset affects, this device's own included. */
  readonly devices: readonly DependentDevice[];
  /** For a cdev: whether all functions are owned, which the reset requires. */
  readonly isOwned?: boolean;
}
