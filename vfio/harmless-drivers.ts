/** Host drivers that do no DMA (driver_managed_dma): a group whose members have them, or VFIO's drivers, is viable. */
export const HARMLESS_DRIVERS: readonly string[] = ['pci-stub', 'pcieport'];
