/** Shell lines that change the kernel's command line from the next boot on, with the tools of either family of distributions. */

const GRUB = '/etc/default/grub';
const UPDATE = '{ update-grub || grub2-mkconfig -o /boot/grub2/grub.cfg; }';

/** grubby on Fedora and its relatives; elsewhere GRUB's defaults, which are a shell script. */
const withGrub = (grubby: string, edit: string): string =>
  `if command -v grubby > /dev/null; then grubby --update-kernel=ALL ${grubby}; else ${edit} && ${UPDATE}; fi`;

/** Adds a parameter that is not there. */
export const addParameter = (parameter: string): string =>
  withGrub(`--args=${parameter}`, `echo 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX ${parameter}"' >> ${GRUB}`);

/** Removes one that is. */
export const removeParameter = (parameter: string): string =>
  withGrub(`--remove-args=${parameter}`, `sed -i 's/\\b${parameter}\\b//' ${GRUB}`);

/** What has to follow. */
export const THEN_REBOOT = 'then reboot: the kernel reads its command line at boot only';
