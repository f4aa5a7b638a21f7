/** Whether this process is in a sandbox. Apart from the rest, so that a machine without one does not load it. */
let isProcessSealed = false;

export const isSealed = (): boolean => isProcessSealed;
export const setSealed = (): void => {
  isProcessSealed = true;
};
