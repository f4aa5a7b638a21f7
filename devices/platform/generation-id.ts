/**
 * The virtual machine generation ID: 16 bytes of guest memory that change whenever the machine is put back in time, so that the
 * copies of one saved machine know that they are copies. ACPI says where the bytes are, and a general-purpose event that they have
 * changed. Linux (CONFIG_VMGENID) mixes them into its random numbers, and tells user space by a uevent; Windows takes note, too.
 * @see Virtual Machine Generation ID, Microsoft 2012
 */

/** Number of the general-purpose event that tells of a new ID. */
export const GENERATION_ID_GPE = 2;
/** Length of the ID. Its address is a multiple of 8, in memory that is neither free nor paged out. */
export const GENERATION_ID_BYTES = 16;

/** Makes a new ID: random, so that no two machines share it. @param into its place in guest memory */
export function fillGenerationId(into: Uint8Array): void {
  // By the global, which is loaded when it is used: most machines never make an ID.
  into.set(crypto.getRandomValues(new Uint8Array(into.length)));
}
