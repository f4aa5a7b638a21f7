/**
 * The command that lets the current user open nodes of /dev, until the node is made again (the device changes its
 * driver, or the host boots); a udev rule is for good.
 */
export const grantCommand = (...paths: readonly string[]): string => `sudo chown "$USER" ${paths.join(' ')}`;

/** How a user without rights for a device's nodes gets them. */
export const deniedHint = (...paths: readonly string[]): string =>
  `this user may not open it: ${grantCommand(...paths)} (until the device changes its driver; a udev rule is for good)`;
