import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BrowserContext, chromium, type Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { View, type ViewOptions, type Watched } from '../view.js';
import { headless } from './chromium.js';

/** A page on a view, and what it complained of. */
export interface OpenPage {
  readonly page: Page;
  readonly view: View;
  /** Errors of its scripts and on its console; a test that expects some empties it. */
  readonly complaints: string[];
  /** Hosts that it sent requests to. */
  readonly hosts: Set<string>;
}

/** Chromium for the tests of a file: closes pages and views after each, and fails a test whose page complained. */
export function browserForTests() {
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-browser-'));
  let browser: BrowserContext;
  beforeAll(async () => {
    browser = await chromium.launchPersistentContext(join(folder, 'profile'), {
      ...headless,
      acceptDownloads: true,
    });
  }, 120_000);
  afterAll(async () => {
    await browser?.close();
    rmSync(folder, { recursive: true, force: true });
  });
  const opened: OpenPage[] = [];
  afterEach(async () => {
    for (const { page, view, complaints } of opened.splice(0)) {
      await page.close();
      await view[Symbol.asyncDispose]();
      expect(complaints).toEqual([]);
    }
  });
  const open = async (watched: Watched, options: Partial<ViewOptions> = {}): Promise<OpenPage> => {
    const view = await View.start(watched, { port: 0, ...options });
    const page = await browser.newPage();
    const [complaints, hosts] = [[] as string[], new Set<string>()];
    opened.push({ page, view, complaints, hosts });
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
    page.on('request', (request) => {
      const { protocol, host } = new URL(request.url());
      if (protocol !== 'data:' && protocol !== 'blob:') hosts.add(host);
    });
    await page.goto(view.url);
    return { page, view, complaints, hosts };
  };
  return { open, folder };
}
