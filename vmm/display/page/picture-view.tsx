import { useEffect, useRef } from 'preact/hooks';
import { download } from './download.js';
import type { Picture, Pictures } from './pictures.js';

const ONE_SECOND_MS = 1000;

function fps(picture: Picture): number {
  const now = performance.now();
  picture.times = picture.times.filter((time) => now - time < ONE_SECOND_MS);
  return picture.times.length;
}

function PictureView({ picture, isLive }: { readonly picture: Picture; readonly isLive: boolean }) {
  const place = useRef<HTMLDivElement>(null);
  const { canvas, slot, name, text, hasPicture } = picture;
  useEffect(() => place.current?.replaceChildren(canvas), [canvas]);
  canvas.hidden = !hasPicture;
  const save = () => canvas.toBlob((blob) => blob && download(blob, `tsvisor-${slot}.png`));
  return (
    <figure class={isLive && text === '' ? '' : 'still'} data-slot={slot}>
      <figcaption>
        <span>
          <code>{name}</code> {text === '' ? `${canvas.width} × ${canvas.height}` : text}
        </span>
        <span class="rate">{isLive && text === '' ? `${fps(picture)} fps` : ''}</span>
        <button type="button" disabled={!hasPicture} onClick={save} aria-label={`Save PNG of ${name}`}>
          Save PNG
        </button>
      </figcaption>
      <div ref={place} />
    </figure>
  );
}

/** All displays, side by side. */
export function PicturesView({ pictures }: { readonly pictures: Pictures }) {
  if (pictures.list.length === 0) return null;
  const isLive = pictures.end === undefined && !pictures.isFrozen;
  return (
    <section aria-label="Pictures" class="pictures">
      {pictures.list.map((picture) => (
        <PictureView key={`${picture.slot} ${picture.name}`} picture={picture} isLive={isLive} />
      ))}
    </section>
  );
}
