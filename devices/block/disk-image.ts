/** Formats of disk images. */
export const IMAGE_FORMATS = ['raw', 'qcow2'] as const;
export type ImageFormat = (typeof IMAGE_FORMATS)[number];

/** What a disk is made of. */
export interface DiskImage {
  /** Path of a file or block device. */
  readonly file: string;
  /** Of `file`; undefined: qcow2 if its name ends so, else raw. */
  readonly format: ImageFormat | undefined;
  readonly isReadOnly: boolean;
  /** Path of a qcow2 overlay of `file` that takes all writes. */
  readonly overlay: string | undefined;
  /** What `file`, a qcow2 image, is an overlay of. */
  readonly backing: string | undefined;
}
