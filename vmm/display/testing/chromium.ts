/** The browser of tests, without a window or connections of its own. */
export const CHROMIUM = process.env.TSVISOR_CHROMIUM ?? '/usr/bin/chromium';

/** For playwright's launch. */
export const headless = {
  executablePath: CHROMIUM,
  headless: true,
  args: [
    ...['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'],
    ...['--disable-background-networking', '--disable-component-update', '--disable-sync'],
  ],
};
