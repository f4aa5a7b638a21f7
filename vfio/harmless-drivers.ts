/** Host drivers besides VFIO's that do no DMA of their own, so that a group with such a member stays viable: driver_managed_dma. */
export const HARMLESS_DRIVERS: readonly string[] = ['pci-stub', 'pcieport'];
